//! What a run with other parameters will judge, by the ledgers that the last one left.

use luthier_plugins::Builtin;
use serde_json::{Value, json};

/// As [`luthier_core::Stage::rerun`].
pub(super) fn rerun(old: &Value, new: &Value) -> Option<String> {
    let known: Vec<Value> = plugins(old).map(|(_, ledger)| ledger).collect();
    let (again, selecting): (Vec<_>, Vec<_>) = plugins(new).partition(|(_, ledger)| !known.contains(ledger));
    if selecting.is_empty() {
        return None;
    }
    let names: Vec<String> =
        again.iter().filter_map(|(step, _)| Some(format!("`{}`", step["name"].as_str()?))).collect();
    Some(match names.join(", ") {
        none if none.is_empty() => "selects again by stored scores, judging only rows that now get further".to_owned(),
        names => format!("judges again for {names}, and for its other plugins only rows that are new to them"),
    })
}

/// The plugins among the steps of a key, each with what its ledgers are filed under.
fn plugins(key: &Value) -> impl Iterator<Item = (&Value, Value)> {
    let steps = key["steps"].as_array().into_iter().flatten().enumerate();
    steps.filter(|(_, step)| step.get("plugin").is_some()).map(|(index, step)| {
        let config = &step["config"];
        let builtin = step["plugin"]["builtin"].as_str().and_then(|name| Builtin::find(name).ok());
        let ledger = match builtin {
            Some(builtin) => json!([step["plugin"], builtin.measured(config), step["on"]]),
            // The digest of its source goes by the place of the step.
            None => json!([index, config, step["on"]]),
        };
        (step, ledger)
    })
}

#[cfg(test)]
mod tests {
    use luthier_core::Stage;

    use super::super::FilterStage;
    use super::*;
    use crate::testing::Bench;

    fn told(old: &Value, new: &Value) -> Option<String> {
        let bench = Bench::new();
        bench.write("filters/own/plugin.wasm", b"");
        let key = |with: &Value| bench.prepare(&FilterStage, with).expect("a valid configuration").key;
        FilterStage.rerun(&key(old), &key(new))
    }

    #[test]
    fn moved_thresholds_select_and_what_is_measured_otherwise_is_judged() {
        let steps = |urls: Value, words: Value, keep: Value, own: Value| {
            json!({"steps": [
                {"plugin": "builtin:url-ratio", "config": urls},
                {"dedup": "exact"},
                {"plugin": "builtin:fineweb-quality", "config": words, "keep": keep},
                {"plugin": "./filters/own/plugin.wasm", "config": own},
            ]})
        };
        let bound = json!({"short-lines": {"max": 0.5}});
        let old = steps(json!({"max": 0.1}), json!({}), json!({}), json!({"n": 1}));
        let selects = "selects again by stored scores, judging only rows that now get further";
        for new in [
            steps(json!({"max": 0.2}), json!({}), json!({}), json!({"n": 1})),
            steps(json!({"max": 0.1}), json!({"max_short_lines": 0.5}), bound, json!({"n": 1})),
        ] {
            assert_eq!(told(&old, &new).as_deref(), Some(selects));
        }
        let measured = steps(json!({"max": 0.2}), json!({"short_line": 31}), json!({}), json!({"n": 1}));
        let again = "judges again for `fineweb-quality`, and for its other plugins only rows that are new to them";
        assert_eq!(told(&old, &measured).as_deref(), Some(again));
        let own = steps(json!({"max": 0.1}), json!({}), json!({}), json!({"n": 2}));
        let again = "judges again for `plugin`, and for its other plugins only rows that are new to them";
        assert_eq!(told(&old, &own).as_deref(), Some(again));
    }

    #[test]
    fn where_every_plugin_judges_again_nothing_is_spared() {
        let one = |step: Value| json!({"steps": [step, {"dedup": "exact"}]});
        let old = one(json!({"plugin": "builtin:length", "config": {"min_chars": 1}}));
        let other = one(json!({"plugin": "builtin:length", "config": {"min_chars": 1}, "on": "title"}));
        assert_eq!(told(&old, &other), None, "another column has other texts");
        assert_eq!(told(&one(json!({"dedup": "minhash"})), &one(json!({"dedup": "exact"}))), None);
    }
}
