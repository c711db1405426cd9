//! Readers and writers of everything that crosses a stage boundary: Parquet datasets, packed tokens, GGUF, Hugging Face
//! model directories, tokenizers and chat templates. No tensor arithmetic beyond the codecs of the formats.

pub mod chat_template;
pub mod dataset;
pub mod decontaminated;
pub mod gguf;
pub mod model_files;
pub mod quant;
pub mod tokenizer;
pub mod tokens;
