//! The vault on a real S3 server: `moto`, from PyPI, installed by `tests/run --prepare`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use opendal_http_transport_reqwest::ReqwestTransport;
use reeve_drivers::OpendalVault;
use reeve_drivers::vault::{KeyRing, Packing, Remote, VaultKey, VaultUrl};
use reeve_lifecycle::effect::Disk;
use reeve_ports::conformance::vault::{content, path_of, run, sealed};
use reeve_ports::vault::{Damage, Vault, VaultError, Verification};
use reeve_protocol::VmId;
use uuid::Uuid;

/// A server of its own for each test. Ends with it.
struct S3 {
    server: Child,
    endpoint: String,
    http: reqwest::Client,
}

/// Where it was installed, or whatever is on the path.
fn moto() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/moto/bin/moto_server");
    if installed.is_file() { installed } else { "moto_server".into() }
}

impl S3 {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(moto());
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null());
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = server.expect("moto_server is there (tests/run --prepare installs it)");
        let s3 = Self { server, endpoint: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new() };
        for _ in 0..600 {
            if s3.http.put(format!("{}/backups", s3.endpoint)).send().await.is_ok_and(|made| made.status().is_success())
            {
                return s3;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("moto_server did not answer within a minute");
    }

    fn vault(&self, bucket: &str) -> OpendalVault {
        let url: VaultUrl = format!("s3://{bucket}/lab").parse().unwrap();
        let remote = Remote {
            endpoint: self.endpoint.clone(),
            region: "us-east-1".into(),
            access_key_id: "reeve".into(),
            secret: "secret".into(),
            ca: None,
        };
        let keys = KeyRing::new(vec![VaultKey::new("k", &"7".repeat(64)).unwrap()]).unwrap();
        url.open(Some(&remote)).unwrap().with(Packing::default().part_bytes(30_000).under_way(3).keys(keys))
    }

    async fn get(&self, query: &str) -> String {
        let answer = self.http.get(format!("{}/backups{query}", self.endpoint)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// The keys of all objects that end like this, as the server lists them.
    async fn keys(&self, part: &str) -> Vec<String> {
        let listing = self.get("?list-type=2").await;
        let keys = listing.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned());
        keys.filter(|key| key.contains(part)).collect()
    }

    /// Whoever may write to the bucket.
    fn operator(&self) -> opendal::Operator {
        let transport = opendal::HttpTransporter::new(ReqwestTransport::new(self.http.clone()));
        let service = opendal::services::S3::default().bucket("backups").endpoint(&self.endpoint).region("us-east-1");
        let service = service.access_key_id("somebody").secret_access_key("else").disable_config_load();
        let operator = opendal::Operator::new(service).unwrap();
        operator.with_context(opendal::OperationContext::new().with_http_transport(transport))
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test]
async fn live_s3_passes_the_suite() {
    let s3 = S3::start().await;
    s3.vault("backups").probe_writable().await.unwrap();
    assert_eq!(s3.keys("").await, Vec::<String>::new(), "the probe leaves nothing");
    let vault: Arc<dyn Vault> = Arc::new(s3.vault("backups"));
    run(|| std::future::ready(Arc::clone(&vault))).await;
}

/// What only the service knows of costs money and is found by nobody.
#[tokio::test]
async fn live_an_attempt_that_died_is_continued_and_leaves_no_upload_behind() {
    let s3 = S3::start().await;
    let (vault, path) = (s3.vault("backups"), path_of(VmId::new(Uuid::from_u128(5))));
    let whole = Bytes::from(content(1, 100_000));
    let died = [Ok(whole.slice(..95_000)), Err(std::io::Error::other("broke"))];
    let stored = vault.store(&path, &Disk::Root, futures::stream::iter(died).boxed()).await;
    assert_eq!(stored, Err(VaultError::Source("broke".into())));
    assert!(!s3.get("?uploads").await.contains("<UploadId>"), "an unfinished upload");
    let kept = s3.keys("/root.parts/").await;
    sealed(&vault, &path).await;
    let after = s3.keys("/root.parts/").await;
    assert!(kept.iter().all(|key| after.contains(key)), "{kept:?} {after:?}");
    assert_eq!(after.len(), 5, "four parts and their index: {after:?}");
}

#[tokio::test]
async fn live_damage_in_a_bucket_is_seen() {
    let s3 = S3::start().await;
    let (vault, path) = (s3.vault("backups"), path_of(VmId::new(Uuid::from_u128(5))));
    sealed(&vault, &path).await;
    let key = s3.keys("/root.parts/00000002-").await.remove(0);
    let bucket = s3.operator();
    let good = bucket.read(&key).await.unwrap().to_bytes();
    let damage = || async {
        match vault.verify(&path).await {
            Ok(Verification::Damaged { damage, .. }) => damage,
            other => panic!("damage was not seen: {other:?}"),
        }
    };
    let mut flipped = good.to_vec();
    flipped[100] ^= 4;
    bucket.write(&key, flipped).await.unwrap();
    assert_eq!(damage().await, Damage::Hash("BLAKE3 of the stored part"));
    bucket.write(&key, good.slice(..50)).await.unwrap();
    assert_eq!(damage().await, Damage::Length { found: 50, listed: good.len() as u64 });
    bucket.delete(&key).await.unwrap();
    assert_eq!(damage().await, Damage::Missing);
    bucket.write(&key, good).await.unwrap();
    assert_eq!(vault.verify(&path).await, Ok(Verification::Equal { bytes: 100_010 }));
}

#[tokio::test]
async fn live_a_server_that_is_away_or_has_no_such_bucket_is_no_damage() {
    let mut s3 = S3::start().await;
    let (vault, path) = (s3.vault("backups"), path_of(VmId::new(Uuid::from_u128(5))));
    sealed(&vault, &path).await;
    let error = s3.vault("others").probe_writable().await.unwrap_err();
    assert!(matches!(&error, VaultError::NotWritable(why) if why.contains("s3://others/lab")), "{error}");
    s3.server.kill().unwrap();
    s3.server.wait().unwrap();
    let error = vault.verify(&path).await.unwrap_err();
    assert!(matches!(&error, VaultError::Unavailable(_)), "{error}");
    let one = futures::stream::iter([Ok(Bytes::from("x"))]).boxed();
    let error = vault.store(&path, &Disk::Root, one).await.unwrap_err();
    assert!(matches!(&error, VaultError::Unavailable(_)), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}
