//! A server that speaks S3.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use luthier_test::TestProject;

use super::project;

/// A moto server, which speaks S3 as Amazon's does.
pub(super) struct S3 {
    server: Child,
    pub(super) port: u16,
}

impl S3 {
    /// `None`, with a line that says so, where there is no server.
    pub(super) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub(super) fn start_with(environment: &[(&str, &str)]) -> Option<Self> {
        let program = std::env::var("LUTHIER_TEST_S3_SERVER").unwrap_or_else(|_| "moto_server".to_owned());
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let server = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(server) = server else {
            luthier_test::skipped(
                "no S3 server: `pip install 'moto[server]'` and put `moto_server` on the PATH, or name it in \
                 LUTHIER_TEST_S3_SERVER",
            );
            return None;
        };
        let s3 = Self { server, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "`{program}` does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(s3.request("PUT /bucket").starts_with("HTTP/1.1 200"), "a bucket");
        Some(s3)
    }

    pub(super) fn request(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server");
        let text = format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    pub(super) fn project(&self, remote: &str) -> TestProject {
        let mut project = project(remote);
        project
            .env("AWS_ENDPOINT_URL", &format!("http://127.0.0.1:{}", self.port))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1");
        project
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
