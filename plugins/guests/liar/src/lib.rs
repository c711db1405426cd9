//! Answers with numbers that the SDK would never write. The configuration, a bare string, names the lie.

#![cfg(target_family = "wasm")]

use luthier_filter::bindings;
use luthier_filter::bindings::exports::luthier::filter::filter::{Guest, GuestSession, Session};
use luthier_filter::bindings::luthier::filter::types::{
    Column, Edits, Manifest, OpenError, Refusal, Score, ScoreKind, Verdicts,
};

struct Liar;

struct Lie(String);

impl Guest for Liar {
    type Session = Lie;

    fn describe() -> Manifest {
        Manifest {
            name: "liar".to_owned(),
            version: "0.1.0".to_owned(),
            about: "Lies.".to_owned(),
            text: String::new(),
            reads: Vec::new(),
            scores: vec![Score { name: "honesty".to_owned(), kind: ScoreKind::Real }],
            reasons: vec!["lie".to_owned()],
            edits_text: true,
            config_schema: "{}".to_owned(),
        }
    }
}

impl GuestSession for Lie {
    fn open(config: String) -> Result<Session, OpenError> {
        Ok(Session::new(Self(config.trim_matches('"').to_owned())))
    }

    fn process(&self, rows: u32, texts: Column, _reads: Vec<Column>) -> Result<Verdicts, String> {
        let n = rows as usize;
        let mut honest = Verdicts { drop: vec![0; n], scores: vec![0.5; n], edits: None, refusals: vec![] };
        let edits = |rows: &[u32], offsets: &[u32], data: &[u8]| {
            Some(Edits { rows: rows.to_vec(), offsets: offsets.to_vec(), data: data.to_vec() })
        };
        let refusal = |row, why: &str| Refusal { row, why: why.to_owned() };
        // Only a batch with the row `lie` is lied about.
        if !texts.data.windows(3).any(|window| window == b"lie") {
            return Ok(honest);
        }
        match self.0.as_str() {
            "long" => honest.drop = vec![0; n + 1],
            "reason" => honest.drop[0] = 9,
            "scores" => honest.scores.push(0.0),
            "nan" => honest.scores[0] = f32::NAN,
            "offsets" => honest.edits = edits(&[0], &[0, 99], b"abc"),
            "backwards" => honest.edits = edits(&[0], &[3, 0], b"abc"),
            "rows" => honest.edits = edits(&[rows], &[0, 3], b"abc"),
            "encoding" => honest.edits = edits(&[0], &[0, 1], b"\xff"),
            "huge" => honest.edits = edits(&[0], &[0, 32 << 20], &vec![b'x'; 32 << 20]),
            "row" => honest.refusals = vec![refusal(rows, "no such row")],
            "order" => honest.refusals = vec![refusal(0, "first"), refusal(0, "again")],
            "essay" => honest.refusals = vec![refusal(0, &"long \u{1b}[31m".repeat(1_000))],
            // Buffers that lie outside of the guest's memory, or reach out of it.
            "wild" => honest.drop = unsafe { Vec::from_raw_parts(0xffff_0000 as *mut u8, n, n) },
            "vast" => honest.scores = unsafe { Vec::from_raw_parts(honest.scores.leak().as_mut_ptr(), 1 << 29, 1 << 29) },
            "crooked" => honest.scores = unsafe { Vec::from_raw_parts(0x1_0001 as *mut f32, n, n) },
            "error" => return Err("cannot".to_owned()),
            _ => return Err("unknown lie".to_owned()),
        }
        Ok(honest)
    }
}

bindings::export_component!(Liar with_types_in bindings);
