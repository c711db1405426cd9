//! A run in the Trace Event Format, which `chrome://tracing` and ui.perfetto.dev open.
//!
//! One lane per stage that runs at once, so overlapping stages lie below each other; curves that stages report become
//! counters; reused stages, failures and warnings become marks.

use std::collections::BTreeMap;

use luthier_core::{StageEvent, StageId};
use serde_json::{Value, json};

use crate::run::{RunEvent, TimedEvent};

/// Collects events as they happen, or from a journal.
#[derive(Debug, Default)]
pub struct ChromeTrace {
    entries: Vec<Value>,
    /// The stage in each lane.
    lanes: Vec<Option<StageId>>,
    open: BTreeMap<StageId, Open>,
}

#[derive(Debug)]
struct Open {
    lane: usize,
    began: f64,
    arguments: Value,
}

/// Lane 0 is the run itself.
const PROCESS: u32 = 1;

impl ChromeTrace {
    #[must_use]
    pub fn of(events: &[TimedEvent]) -> Self {
        let mut trace = Self::default();
        for event in events {
            trace.add(event.at, &event.event);
        }
        trace
    }

    /// Takes one event, `at` seconds into the run.
    pub fn add(&mut self, at: f64, event: &RunEvent) {
        let micros = at * 1e6;
        match event {
            RunEvent::RunStarted { run, pipeline, threads, .. } => {
                self.entries.push(json!({"ph": "M", "pid": PROCESS, "name": "process_name",
                    "args": {"name": format!("luthier {pipeline} {run}")}}));
                self.entries.push(json!({"ph": "M", "pid": PROCESS, "tid": 0, "name": "thread_name",
                    "args": {"name": format!("run ({threads} threads)")}}));
            }
            RunEvent::StageStarted { stage, why, attempt, threads, .. } => {
                let why: Vec<String> = why.iter().map(ToString::to_string).collect();
                let lane = self.lanes.iter().position(Option::is_none).unwrap_or_else(|| {
                    self.lanes.push(None);
                    self.lanes.len() - 1
                });
                self.lanes[lane] = Some(stage.clone());
                let arguments = json!({"why": why, "attempt": attempt, "threads": threads});
                self.open.insert(stage.clone(), Open { lane, began: micros, arguments });
            }
            RunEvent::StageFinished { stage, record } => {
                let outputs: BTreeMap<String, Value> = record
                    .outputs
                    .iter()
                    .map(|(name, output)| (name.to_string(), json!({"digest": output.digest, "bytes": output.size})))
                    .collect();
                self.close(stage, micros, "stage", &json!({"outputs": outputs, "peak_memory": record.peak_memory}));
            }
            RunEvent::StageFailed { stage, failure, .. } => {
                self.close(stage, micros, "failed", &json!({"error": failure.message, "code": failure.code}));
            }
            RunEvent::StageReused { stage, key, .. } => {
                // Another process made the result meanwhile.
                self.close(stage, micros, "waited", &json!({}));
                self.mark(micros, 0, &format!("{stage} reused"), &json!({"key": key}));
            }
            RunEvent::StageBlocked { stage, by } => {
                self.mark(micros, 0, &format!("{stage} blocked"), &json!({"by": by}));
            }
            RunEvent::StageEvent { stage, event } => self.stage_event(micros, stage, event),
            RunEvent::RemotePulled { remote, shipment } => {
                self.mark(
                    micros,
                    0,
                    &format!("pulled from {remote}"),
                    &json!({"stages": shipment.stages, "bytes": shipment.bytes}),
                );
            }
            RunEvent::RemotePushed { remote, shipment } => {
                self.mark(
                    micros,
                    0,
                    &format!("pushed to {remote}"),
                    &json!({"stages": shipment.stages, "bytes": shipment.bytes}),
                );
            }
            RunEvent::StageWaiting { .. } | RunEvent::RemoteAsked { .. } => {}
            RunEvent::RunFinished { summary } => {
                self.entries.push(json!({"ph": "X", "pid": PROCESS, "tid": 0, "ts": 0,
                "dur": micros, "name": summary.pipeline, "cat": "run", "args": {"succeeded": summary.succeeded()}}))
            }
        }
    }

    fn stage_event(&mut self, micros: f64, stage: &StageId, event: &StageEvent) {
        match event {
            StageEvent::Point { series, y, .. } if y.is_finite() => {
                self.entries.push(json!({"ph": "C", "pid": PROCESS,
                "ts": micros, "name": format!("{stage} {series}"), "args": {"value": y}}))
            }
            StageEvent::Warning { message, .. } => {
                let lane = self.open.get(stage).map_or(0, |open| open.lane + 1);
                self.mark(micros, lane, message, &json!({"stage": stage}));
            }
            _ => {}
        }
    }

    fn close(&mut self, stage: &StageId, micros: f64, category: &str, result: &Value) {
        let Some(open) = self.open.remove(stage) else { return };
        self.lanes[open.lane] = None;
        let mut arguments = open.arguments;
        if let (Some(all), Some(more)) = (arguments.as_object_mut(), result.as_object()) {
            all.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        self.entries.push(json!({"ph": "X", "pid": PROCESS, "tid": open.lane + 1, "ts": open.began,
            "dur": micros - open.began, "name": stage, "cat": category, "args": arguments}));
    }

    fn mark(&mut self, micros: f64, lane: usize, name: &str, arguments: &Value) {
        self.entries.push(json!({"ph": "i", "s": "t", "pid": PROCESS, "tid": lane, "ts": micros, "name": name,
            "cat": "mark", "args": arguments}));
    }

    /// The whole file.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"displayTimeUnit": "ms", "traceEvents": self.entries})
    }
}

#[cfg(test)]
mod tests {
    use crate::report::ChromeTrace;
    use crate::testkit::Bench;

    #[test]
    fn a_run_becomes_spans_in_lanes() {
        let bench = Bench::new(
            "luthier: 1\nstages:\n  a: {uses: work, with: {text: a}}\n  b: {uses: work, with: {text: b}}\n  c: {uses: work, in: {more: [a, b]}}\n",
        );
        let summary = bench.run();
        let events = crate::run::journal::timed_events(&bench.workspace(), &summary.run).expect("a journal");
        assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at), "times of a journal do not go back");
        let trace = ChromeTrace::of(&events).to_json();
        let spans: Vec<_> = trace["traceEvents"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|entry| entry["ph"] == "X" && entry["cat"] == "stage")
            .collect();
        assert_eq!(spans.len(), 3);
        for span in &spans {
            let (from, long) = (span["ts"].as_f64().expect("a time"), span["dur"].as_f64().expect("a time"));
            assert!(long >= 0.0);
            for other in spans.iter().filter(|other| other["name"] != span["name"] && other["tid"] == span["tid"]) {
                let (at, dur) = (other["ts"].as_f64().expect("a time"), other["dur"].as_f64().expect("a time"));
                assert!(at >= from + long || at + dur <= from, "spans of a lane do not overlap");
            }
        }
        assert_eq!(spans[2]["args"]["why"][0], "never run before");
    }
}
