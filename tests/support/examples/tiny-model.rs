//! Writes the tiny model of the tests as a GGUF file, and chats to train it on, for tests/gpu.sh: FOLDER.

use camino::Utf8PathBuf;
use luthier_formats::quant::TensorType;
use luthier_test::TinyModel;

fn main() -> std::io::Result<()> {
    let folder = Utf8PathBuf::from(std::env::args().nth(1).unwrap_or_default());
    TinyModel::new(11).write_gguf(&folder.join("base.gguf"), TensorType::F32);
    let chat = |number: u32| {
        serde_json::json!({"messages": [
            {"role": "user", "content": format!("{number}?")},
            {"role": "assistant", "content": (number * 7 % 10).to_string()},
        ]})
        .to_string()
    };
    fs_err::write(folder.join("chats.jsonl"), (0..24).map(chat).collect::<Vec<_>>().join("\n"))
}
