//! What is planned is what is allocated, component by component, over every kind of run.

#[expect(dead_code, reason = "each test binary uses its own part")]
mod common;

use std::sync::Arc;

use common::{Family, TinyModel, lora, spec, tokens};
use luthier_formats::model_files::ModelFiles;
use luthier_kernels::device::{Component, CpuDevice, Device};
use luthier_model::adapter::{LoraSpec, Targets};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LoadOptions};

fn specs() -> Vec<(String, TrainSpec)> {
    let targets = [
        Targets::AllLinear,
        Targets::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]),
        Targets::Names(vec!["down_proj".to_owned()]),
        Targets::Pattern(r"model\.layers\.[12]\..*(gate|up)_proj".to_owned()),
    ];
    let mut all = Vec::new();
    for targets in targets {
        for rank in [1, 3, 16] {
            for (batch, accumulate) in [(1, 1), (4, 2)] {
                for checkpointing in [false, true] {
                    for dropout in [0.0, 0.1] {
                        let lora = LoraSpec { rank, dropout, ..lora(targets.clone()) };
                        let name = format!(
                            "{:?}, rank {rank}, batch {batch}x{accumulate}, checkpointing {checkpointing}, dropout {dropout}",
                            lora.targets
                        );
                        all.push((name, TrainSpec { checkpointing, ..spec(lora, 2, batch, accumulate) }));
                    }
                }
            }
        }
    }
    all
}

#[test]
fn every_component_is_planned_to_the_byte() {
    let data = [tokens(9, 1, 3), tokens(9, 2, 4)];
    let mut runs = 0;
    for family in [Family::LlamaTied, Family::LlamaUntied, Family::Qwen2, Family::Qwen3] {
        let model = TinyModel::new(family);
        let files = ModelFiles::open(model.path()).unwrap();
        for base in [BaseFormat::Stored, BaseFormat::Nf4] {
            for (index, (name, spec)) in specs().into_iter().enumerate() {
                // A quarter of them for each family and base, so that all pairs are met.
                if index % 4 != (family as usize + usize::from(base == BaseFormat::Nf4)) % 4 {
                    continue;
                }
                let data = &data[index / 4 % 2];
                let device: Arc<dyn Device> = Arc::new(CpuDevice::new(1).unwrap());
                let positions = data.meta.longest;
                let decoder = Decoder::load(&device, &files, LoadOptions { base, positions }).unwrap();
                let mut trainer = Trainer::new(&decoder, data, None, spec.clone()).unwrap();
                trainer.compute().unwrap();
                trainer.apply().unwrap();
                let types = WeightTypes::of_files(&files, base);
                let plan = MemoryPlan::new(files.config(), types, &spec, RunShape::of_data(data, &spec)).unwrap();
                for component in Component::ALL {
                    let measured = device.ledger().peak(component);
                    assert_eq!(measured, plan.bytes(component), "{family:?}, {base:?}, {name}: {component}");
                }
                assert_eq!(device.ledger().total_peak(), plan.total(), "{family:?}, {base:?}, {name}");
                runs += 1;
            }
        }
    }
    assert!(runs >= 192, "{runs} runs");
}
