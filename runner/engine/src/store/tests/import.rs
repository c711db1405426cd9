use luthier_core::ArtifactKind;

use crate::store::{Health, Store};
use crate::testkit::Bench;

fn store() -> (Bench, Store) {
    let bench = Bench::new("luthier: 1\nstages: {}\n");
    let store = bench.store();
    (bench, store)
}

#[test]
fn files_are_moved_in_once_and_read_only() {
    let (bench, store) = store();
    bench.write("x", "content");
    let one = store.import(&bench.root.join("x"), ArtifactKind::File).unwrap();
    assert!(!bench.root.join("x").exists());
    let path = store.artifact_path(&one);
    assert_eq!(fs_err::read_to_string(&path).unwrap(), "content");
    assert!(fs_err::metadata(&path).unwrap().permissions().readonly());
    assert!(path.as_str().contains(&format!("objects/{}/", &one.digest.hex()[..2])));

    bench.write("y", "content");
    let before = fs_err::metadata(&path).unwrap().modified().unwrap();
    let two = store.import(&bench.root.join("y"), ArtifactKind::File).unwrap();
    assert_eq!(one, two);
    assert_eq!(fs_err::metadata(&path).unwrap().modified().unwrap(), before, "the stored file stays");
    assert!(!bench.root.join("y").exists());
}

#[test]
fn names_of_files_that_live_elsewhere_are_copied() {
    let (bench, store) = store();
    bench.write("mine", "mine");
    fs_err::hard_link(bench.root.join("mine"), bench.root.join("linked")).unwrap();
    #[cfg(unix)]
    fs_err::os::unix::fs::symlink(bench.root.join("mine"), bench.root.join("pointed")).unwrap();
    #[cfg(not(unix))]
    fs_err::copy(bench.root.join("mine"), bench.root.join("pointed")).unwrap();
    for name in ["linked", "pointed"] {
        let artifact = store.import(&bench.root.join(name), ArtifactKind::File).unwrap();
        bench.write("mine", "mine, edited");
        assert_eq!(fs_err::read_to_string(store.artifact_path(&artifact)).unwrap(), "mine");
        assert!(!fs_err::metadata(bench.root.join("mine")).unwrap().permissions().readonly());
        bench.write("mine", "mine");
    }
}

#[test]
fn trees_are_complete_directories_that_share_objects() {
    let (bench, store) = store();
    bench.write("t/a", "same");
    bench.write("t/deep/er/b", "same");
    bench.write("t/run.sh", "same");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs_err::set_permissions(bench.root.join("t/run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs_err::create_dir_all(bench.root.join("t/empty")).unwrap();
    let expected = luthier_core::digest_path(&bench.root.join("t")).unwrap();
    let artifact = store.import(&bench.root.join("t"), ArtifactKind::Model).unwrap();
    assert_eq!((artifact.digest, artifact.size, artifact.tree), (expected.0, 12, true));
    let path = store.artifact_path(&artifact);
    assert_eq!(luthier_core::digest_path(&path).unwrap().0, artifact.digest, "also with its executable bit");
    assert_eq!(store.examine(&artifact).unwrap(), Health::Good);
    assert_eq!(store.files("objects").unwrap().len(), if cfg!(unix) { 2 } else { 1 });

    let out = bench.root.join("out/copy");
    store.materialise(&artifact, &out).unwrap();
    assert_eq!(luthier_core::digest_path(&out).unwrap().0, artifact.digest);

    fs_err::remove_file(path.join("deep/er/b")).unwrap();
    assert_eq!(store.examine(&artifact).unwrap(), Health::Missing);
    fs_err::write(path.join("surplus"), "").unwrap();
    assert_ne!(store.glance(&artifact).unwrap(), Health::Good);
    bench.write("again/a", "same");
    bench.write("again/deep/er/b", "same");
    bench.write("again/run.sh", "same");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs_err::set_permissions(bench.root.join("again/run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(store.import(&bench.root.join("again"), ArtifactKind::Model).unwrap(), artifact);
    assert_eq!(store.examine(&artifact).unwrap(), Health::Good, "storing it anew repairs it");
}

#[test]
fn what_is_neither_file_nor_directory_is_refused() {
    let (bench, store) = store();
    drop(store.share().unwrap());
    let error = store.import(&bench.root.join("nothing"), ArtifactKind::File).unwrap_err();
    assert_eq!(error.to_string(), "an output cannot be stored");
    fs_err::create_dir_all(bench.root.join("w")).unwrap();
    fs_err::write(bench.root.join("w/store"), "").unwrap();
    let error = Store::open(&crate::workspace::Workspace::new(bench.root.join("w"))).unwrap_err();
    assert_eq!(error.to_string(), "the store cannot be opened");
}
