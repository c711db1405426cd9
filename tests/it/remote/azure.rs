//! Azure's store, through Azurite.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{project, shares};

/// Azurite, Microsoft's own emulator.
struct Azure {
    server: Child,
    endpoint: String,
    _data: tempfile::TempDir,
}

/// The account that every Azurite has, as its documentation prints it.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes the container `bucket` by a signed request; Azurite needs node, so node is there.
const MAKE_CONTAINER: &str = r#"
const [endpoint, account, key] = process.argv.slice(1);
const date = new Date().toUTCString(), version = "2021-12-02";
const text = `PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:${date}\nx-ms-version:${version}\n/${account}/${account}/bucket\nrestype:container`;
const sign = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");
const headers = {"x-ms-date": date, "x-ms-version": version, authorization: `SharedKey ${account}:${sign}`};
fetch(`${endpoint}/bucket?restype=container`, {method: "PUT", headers}).then(async (answer) => {
  if (answer.status !== 201) { console.error(answer.status, await answer.text()); process.exit(1); }
});
"#;

impl Azure {
    fn start() -> Option<Self> {
        let program = std::env::var("LUTHIER_TEST_AZURE_SERVER").unwrap_or_else(|_| "azurite-blob".to_owned());
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let data = tempfile::tempdir().expect("a directory");
        let server = Command::new(&program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent", "--skipApiVersionCheck"])
            .arg("--location")
            .arg(data.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(server) = server else {
            luthier_test::skipped(
                "no Azure server: `npm install azurite` and put `azurite-blob` on the PATH, or name it in \
                 LUTHIER_TEST_AZURE_SERVER",
            );
            return None;
        };
        let azure = Self { server, endpoint: format!("http://127.0.0.1:{port}/{ACCOUNT}"), _data: data };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "`{program}` does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        let made = Command::new("node").args(["-e", MAKE_CONTAINER, &azure.endpoint, ACCOUNT, ACCOUNT_KEY]).output();
        let made = made.expect("node");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(azure)
    }
}

impl Drop for Azure {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn azure_is_a_remote() {
    let Some(azure) = Azure::start() else { return };
    shares(&|| {
        let mut project = project("az://bucket/some/prefix");
        project
            .env("AZURE_STORAGE_ENDPOINT", &azure.endpoint)
            .env("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
            .env("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY);
        project
    });
}
