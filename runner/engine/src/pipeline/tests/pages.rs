//! What the format says about itself: schema, kinds, templates.

use super::Bench;
use super::kinds::registry;
use crate::spec::{describe_kind, schema, templates};

#[test]
fn kinds_are_described_in_plain_text() {
    let registry = registry();
    let pages: Vec<String> = registry.stages().map(|stage| describe_kind(stage.as_ref())).collect();
    insta::assert_snapshot!("kinds", pages.join("\n\n----\n\n"));
}

#[test]
fn the_schema_covers_every_kind() {
    let schema = schema(&registry());
    let rules = schema["$defs"]["stage"]["allOf"].as_array().expect("rules");
    assert_eq!(rules.len(), registry().kinds().count());
    insta::assert_snapshot!("schema_train", serde_json::to_string_pretty(&rules[rules.len() - 1]).expect("JSON"));
}

#[test]
fn templates_are_pipelines_by_shape() {
    for template in templates() {
        let source = crate::spec::SourceText::new("luthier.yaml", template.text);
        let root = crate::spec::parse(&source).unwrap_or_else(|errors| panic!("{}: {errors:?}", template.name));
        let mut problems = Vec::new();
        let spec = crate::spec::read(&root, &mut problems);
        assert_eq!(problems, [], "{}", template.name);
        assert!(spec.stages.len() > 3, "{}", template.name);
    }
}

#[test]
fn a_pipeline_with_errors_never_loads() {
    assert!(Bench::new().load_with("luthier: 1\nstages: {raw: {uses: ingest, x: 1}}\n", &[]).is_err());
}
