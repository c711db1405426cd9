//! Unchanged source trees are not read again.

use std::time::{Duration, SystemTime};

use crate::fingerprint::digest_tree_source;
use crate::store::Store;
use crate::testkit::Bench;

const FILES: usize = 2_000;

#[test]
fn an_unchanged_tree_is_only_listed() {
    let bench = Bench::new("luthier: 1\nstages: {}\n");
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    for at in 0..FILES {
        let name = format!("tree/d{}/f{at}", at % 50);
        bench.write(&name, &at.to_string());
        let file = fs_err::File::options().write(true).open(bench.root.join(&name)).unwrap();
        file.file().set_modified(long_ago).unwrap();
    }
    let root = bench.root.join("tree");
    let store = bench.store();
    let first = digest_tree_source(&root, store.memo()).unwrap();
    store.memo().save();
    let plain = luthier_core::digest_path(&root).unwrap().0;
    assert_eq!(first, plain, "the same digest as of an artifact with these files");
    // Same size, time and inode, other bytes: what only a reader of the file would see.
    let target = root.join("d0/f1000");
    let file = fs_err::File::options().write(true).open(&target).unwrap();
    std::io::Write::write_all(&mut file.file(), b"9999").unwrap();
    file.file().set_modified(long_ago).unwrap();
    let memo = Store::open(&bench.workspace()).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(digest_tree_source(&root, memo.memo()).unwrap(), first, "nothing was read");
    println!("{FILES} unchanged files took {:?}", start.elapsed());
    file.file().set_modified(long_ago + Duration::from_nanos(1_000)).unwrap();
    assert_ne!(digest_tree_source(&root, memo.memo()).unwrap(), first);
}

#[test]
#[cfg(unix)]
fn links_that_lead_back_are_refused_and_dangling_ones_skipped() {
    let bench = Bench::new("luthier: 1\nstages: {}\n");
    bench.write("tree/a", "a");
    let plain = digest_tree_source(&bench.root.join("tree"), bench.store().memo()).unwrap();
    fs_err::os::unix::fs::symlink("nowhere", bench.root.join("tree/.#a")).unwrap();
    assert_eq!(digest_tree_source(&bench.root.join("tree"), bench.store().memo()).unwrap(), plain);
    fs_err::os::unix::fs::symlink("..", bench.root.join("tree/up")).unwrap();
    let error = digest_tree_source(&bench.root.join("tree"), bench.store().memo()).unwrap_err();
    assert!(error.to_string().contains("leads back to"), "{error}");
}
