//! The operations of a run as far as a device's scratch memory follows from them, at their largest.

use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::{Matrix, Operand, Operation, Storage};

use super::{Decoder, Sizes};
use crate::adapter::{Slot, parameters};
use crate::projection::Projection;

/// Every way in which a matrix may be kept.
const WAYS: [Storage; 7] = [
    Storage::F32,
    Storage::F16,
    Storage::Bf16,
    Storage::Nf4,
    Storage::Blocks(luthier_kernels::blocks::BlockKind::Q4_0),
    Storage::Blocks(luthier_kernels::blocks::BlockKind::Q4_1),
    Storage::Blocks(luthier_kernels::blocks::BlockKind::Q8_0),
];

/// The ways in which a model's projections are kept, and its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storages {
    /// A bit for each of [`WAYS`].
    projections: u8,
    head: Storage,
}

impl Storages {
    /// Of projections that are kept as these.
    #[must_use]
    pub fn new(projections: impl IntoIterator<Item = Storage>, head: Storage) -> Self {
        let bit = |storage: Storage| WAYS.iter().position(|way| *way == storage).map_or(0, |place| 1 << place);
        Self { projections: projections.into_iter().map(bit).fold(0, |all, bit| all | bit), head }
    }

    pub(crate) fn of(decoder: &Decoder) -> Self {
        let projections = decoder.blocks.iter().flat_map(|block| &block.matrices).map(storage);
        Self::new(projections, storage(decoder.head.as_ref().unwrap_or(&decoder.embedding)))
    }

    fn projections(self) -> impl Iterator<Item = Storage> {
        WAYS.into_iter().enumerate().filter(move |(place, _)| self.projections >> place & 1 == 1).map(|(_, way)| way)
    }
}

fn storage(matrix: &Matrix) -> Storage {
    match matrix.operand() {
        Operand::F32(_) => Storage::F32,
        Operand::F16(_) => Storage::F16,
        Operand::Bf16(_) => Storage::Bf16,
        Operand::Nf4 { .. } => Storage::Nf4,
        Operand::Blocks { kind, .. } => Storage::Blocks(kind),
    }
}

/// Those of a pass of `sizes`, and with `trains` of its backward and of the optimiser.
pub(crate) fn operations(
    config: &ModelConfig,
    slots: &[Slot],
    sizes: &Sizes,
    storages: Storages,
    trains: bool,
) -> Vec<Operation> {
    let (tokens, hidden, vocabulary) = (sizes.capacity.tokens, config.hidden_size, config.vocab_size);
    let mut all = Vec::new();
    let mut product = |shape: [usize; 3], kept: Storage| {
        all.push(Operation::MatmulNt(shape, kept));
        if trains {
            all.push(Operation::MatmulNn(shape, kept));
        }
    };
    for projection in Projection::ALL {
        let (outputs, inputs) = projection.shape(config);
        storages.projections().for_each(|kept| product([tokens, outputs, inputs], kept));
    }
    product([sizes.part, vocabulary, hidden], storages.head);
    for slot in slots {
        let Slot { rank, outputs, inputs, .. } = *slot;
        product([tokens, rank, inputs], Storage::F32);
        product([tokens, outputs, rank], Storage::F32);
        if slot.magnitude.is_some() {
            storages.projections().for_each(|kept| product([rank, outputs, inputs], kept));
            product([rank, rank, inputs], Storage::F32);
        }
    }
    let magnified = slots.iter().filter(|slot| slot.magnitude.is_some());
    all.extend(magnified.map(|slot| Operation::Narrow(slot.rank * slot.inputs)));
    if trains {
        for Slot { rank, outputs, inputs, .. } in slots {
            all.extend([[tokens, *outputs, *rank], [tokens, *rank, *inputs]].map(Operation::MatmulTn));
        }
        all.push(Operation::Norm(parameters(slots)));
    }
    all
}
