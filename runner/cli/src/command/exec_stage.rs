//! `luthier exec-stage REQUEST`: one stage in this process, events as JSON lines on standard output.

use std::io::Read;

use luthier_core::StageRequest;

use crate::args::ExecStageArgs;
use crate::exit;
use crate::failure::Failure;

pub fn run(args: &ExecStageArgs) -> Result<u8, Failure> {
    let text = if args.request == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        fs_err::read_to_string(&args.request)?
    };
    let request: StageRequest = serde_json::from_str(&text)
        .map_err(|error| Failure::input("exec::request", format!("the request does not parse: {error}")))?;
    let mut out = std::io::stdout();
    let failed = luthier_engine::run::exec_stage(&request, &luthier_stages::registry(), &mut out);
    Ok(failed.map_or(exit::DONE, exit::code))
}
