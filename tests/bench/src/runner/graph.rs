//! The graph that every tool gets, in each one's words.

use std::fmt::Write as _;

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Each stage reads the one before it.
    Chain,
    /// All stages read the first.
    Fanout,
}

impl Shape {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Fanout => "fanout",
        }
    }
}

/// Stages `s0`, `s1`, …, each writing one small file of its own.
#[derive(Debug, Clone, Copy)]
pub struct Graph {
    pub shape: Shape,
    pub stages: usize,
}

impl Graph {
    /// Each stage with the one it reads.
    fn edges(self) -> impl Iterator<Item = (usize, Option<usize>)> {
        (0..self.stages).map(move |at| match self.shape {
            Shape::Chain => (at, at.checked_sub(1)),
            Shape::Fanout => (at, (at > 0).then_some(0)),
        })
    }

    pub fn luthier(self) -> String {
        let mut text = String::from("luthier: 1\nstages:\n");
        for (at, reads) in self.edges() {
            let input = reads.map(|from| format!("in: {{data: s{from}}}, ")).unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  s{at}: {{uses: command, {input}with: {{run: 'echo {at} > ${{out.file}}', outputs: {{file: file}}}}}}"
            );
        }
        text
    }

    pub fn dvc(self) -> String {
        let mut text = String::from("stages:\n");
        for (at, reads) in self.edges() {
            let input = reads.map(|from| format!("    deps: [out/s{from}]\n")).unwrap_or_default();
            let _ = write!(text, "  s{at}:\n    cmd: echo {at} > out/s{at}\n{input}    outs: [out/s{at}]\n");
        }
        text
    }

    pub fn snakemake(self) -> String {
        let leaves = match self.shape {
            Shape::Chain => format!("\"out/s{}\"", self.stages - 1),
            Shape::Fanout => format!("[f\"out/s{{i}}\" for i in range({})]", self.stages),
        };
        let mut text = format!("rule all:\n    input: {leaves}\n");
        for (at, reads) in self.edges() {
            let input = reads.map(|from| format!("    input: \"out/s{from}\"\n")).unwrap_or_default();
            let _ =
                write!(text, "rule s{at}:\n{input}    output: \"out/s{at}\"\n    shell: \"echo {at} > {{output}}\"\n");
        }
        text
    }

    pub fn make(self) -> String {
        let all: Vec<String> = (0..self.stages).map(|at| format!("out/s{at}")).collect();
        let mut text = format!("all: {}\n", all.join(" "));
        for (at, reads) in self.edges() {
            let input = reads.map(|from| format!("out/s{from}")).unwrap_or_default();
            let _ = write!(text, "out/s{at}: {input}\n\techo {at} > $@\n");
        }
        text
    }
}
