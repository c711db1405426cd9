use std::collections::BTreeMap;

use luthier_core::{ArtifactKind, Digest};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::path::{flatten, unflatten};
use super::*;

fn print(config: Value) -> Fingerprint {
    Fingerprint {
        version: FORMAT,
        kind: "work".to_owned(),
        recipe: 1,
        config,
        inputs: BTreeMap::from([(
            "data".to_owned(),
            vec![InputPrint { kind: ArtifactKind::Dataset, digest: Digest::of(b"in"), name: None }],
        )]),
        sources: BTreeMap::from([("file".to_owned(), Digest::of(b"source"))]),
        env: BTreeMap::from([("LANG".to_owned(), Digest::of(b"C"))]),
        numeric_class: Some("cpu-f32".to_owned()),
    }
}

#[test]
fn the_key_of_a_known_fingerprint_never_changes() {
    // A new value here makes every result of every user unknown: raise FORMAT and think twice.
    let key = print(crate::testkit::sample_config()).digest();
    assert_eq!(key.hex(), "f81236dac8741a0be50da8cdb94425b5784f0670ecc8d724d3ba78493939f048");
}

/// Every field but the version changes the key and is explained.
#[test]
fn every_field_counts() {
    let base = print(json!({"a": 1}));
    type Edit = Box<dyn Fn(&mut Fingerprint)>;
    let edits: Vec<(&str, Edit)> = vec![
        ("uses: work → other", Box::new(|print| print.kind = "other".to_owned())),
        ("recipe version 1 → 2", Box::new(|print| print.recipe = 2)),
        ("a 1 → 1.0", Box::new(|print| print.config = json!({"a": 1.0}))),
        ("b added: null", Box::new(|print| print.config = json!({"a": 1, "b": null}))),
        ("input data changed", Box::new(|print| print.inputs.get_mut("data").unwrap()[0].digest = Digest::of(b"x"))),
        ("input data changed", Box::new(|print| print.inputs.get_mut("data").unwrap()[0].kind = ArtifactKind::File)),
        (
            "input data changed",
            Box::new(|print| print.inputs.get_mut("data").unwrap()[0].name = Some("a.out".to_owned())),
        ),
        ("input data removed", Box::new(|print| print.inputs.clear())),
        ("source file changed", Box::new(|print| *print.sources.get_mut("file").unwrap() = Digest::of(b"x"))),
        ("source file removed", Box::new(|print| print.sources.clear())),
        ("environment variable LANG removed", Box::new(|print| print.env.clear())),
        ("numeric class cpu-f32 → none", Box::new(|print| print.numeric_class = None)),
        ("numeric class cpu-f32 → ", Box::new(|print| print.numeric_class = Some(String::new()))),
    ];
    let mut keys = vec![base.digest()];
    for (expected, edit) in edits {
        let mut changed = base.clone();
        edit(&mut changed);
        let reasons = base.diff(&changed, &Origin::default());
        assert_eq!(reasons.len(), 1, "{expected}: {reasons:?}");
        assert!(reasons[0].to_string().starts_with(expected), "{expected}: {}", reasons[0]);
        assert!(!keys.contains(&changed.digest()), "{expected}");
        keys.push(changed.digest());
    }
    let newer = Fingerprint { version: FORMAT + 1, ..base.clone() };
    assert!(newer.same(&base) && newer.digest() == base.digest(), "the format is no input");
}

#[test]
fn moving_text_between_fields_changes_the_key() {
    let mut one = print(json!({}));
    one.sources = BTreeMap::from([("a".to_owned(), Digest::of(b"x"))]);
    one.env = BTreeMap::new();
    let mut two = one.clone();
    std::mem::swap(&mut two.sources, &mut two.env);
    assert_ne!(one.digest(), two.digest());
    assert_ne!(print(json!(["ab", "c"])).digest(), print(json!(["a", "bc"])).digest());
    assert_ne!(print(json!({"a": []})).digest(), print(json!({"a": {}})).digest());
    assert_ne!(print(json!(0.0)).digest(), print(json!(-0.0)).digest());
    assert_ne!(print(json!(u64::MAX)).digest(), print(json!(-1)).digest());
}

#[test]
fn lists_are_compared_from_both_ends() {
    let diff = |old: Value, new: Value| -> Vec<String> {
        print(old).diff(&print(new), &Origin::default()).iter().map(ToString::to_string).collect()
    };
    assert_eq!(diff(json!({"s": [1, 2, 3]}), json!({"s": [0, 1, 2, 3]})), ["s[0] added: 0"]);
    assert_eq!(diff(json!({"s": [1, 2, 3]}), json!({"s": [1, 3]})), ["s[1] removed (was 2)"]);
    assert_eq!(diff(json!({"s": [1, 2, 3]}), json!({"s": [1, 5, 3]})), ["s[1] 2 → 5"]);
    assert_eq!(diff(json!({"s": [1, 1]}), json!({"s": [1]})), ["s[1] removed (was 1)"]);
    assert_eq!(diff(json!({"s": [1]}), json!({"s": "one"})), ["s [1] → one"]);
    assert_eq!(diff(json!({"a.b": {"c]": 1}}), json!({"a.b": {"c]": 2}})), [r#"["a.b"]["c]"] 1 → 2"#]);
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((r#"[a-c."\[\]]{0,3}"#, inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// The same value with the members of every object in reverse.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .iter()
                .map(|(key, item)| (key.clone(), reversed(item)))
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(reversed).collect()),
        leaf => leaf.clone(),
    }
}

proptest! {
    #[test]
    fn the_key_does_not_depend_on_the_order_of_members(value in values()) {
        prop_assert_eq!(print(value.clone()).digest(), print(reversed(&value)).digest());
    }

    #[test]
    fn keys_are_equal_exactly_where_nothing_differs(old in values(), new in values()) {
        let (old, new) = (print(old), print(new));
        let reasons = old.diff(&new, &Origin::default());
        prop_assert_eq!(old.digest() == new.digest(), reasons.is_empty(), "{:?}", reasons);
    }

    #[test]
    fn changing_any_leaf_changes_the_key_and_names_it(value in values(), pick in any::<prop::sample::Index>()) {
        let leaves = flatten(&value);
        let mut changed = leaves.clone();
        let at = pick.index(leaves.len());
        changed[at].1 = json!("changed to this");
        let (old, new) = (print(value), print(unflatten(changed).unwrap()));
        if leaves[at].1 != json!("changed to this") {
            prop_assert_ne!(old.digest(), new.digest());
            let reasons = old.diff(&new, &Origin::default());
            prop_assert_eq!(reasons.len(), 1);
            let DirtyReason::ConfigChanged { path, .. } = &reasons[0] else { panic!("{:?}", reasons) };
            prop_assert_eq!(path, &leaves[at].0);
        }
    }

    #[test]
    fn leaves_make_the_value_again(value in values()) {
        prop_assert_eq!(unflatten(flatten(&value)).unwrap(), value);
    }

    #[test]
    fn fingerprints_survive_being_stored(value in values()) {
        let print = print(value);
        let text = serde_json::to_string(&print).unwrap();
        let back: Fingerprint = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(back.digest(), print.digest());
    }

    #[test]
    fn hostile_paths_never_panic(paths in prop::collection::vec(r#"[a.\["\]0-9\\]{0,8}"#, 0..6)) {
        let _ = unflatten(paths.into_iter().map(|path| (path, Value::Null)));
    }
}

#[test]
fn contradicting_leaves_are_refused() {
    let leaf = |path: &str| (path.to_owned(), Value::Object(Map::new()));
    assert!(unflatten([leaf("a"), leaf("a.b")]).is_err());
    assert!(unflatten([leaf("a[0]"), leaf("a.b")]).is_err());
    assert!(unflatten([leaf("a[0]"), leaf("a[2]")]).unwrap_err().contains("[1] is missing"));
    assert!(unflatten([leaf("a"), leaf("a")]).is_err());
    assert!(unflatten([leaf("a..b")]).is_err());
}
