//! A real mail server that keeps what it is given: `aiosmtpd`, run by `tests/smtp/sink.py`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reeve_drivers::{EmailConfig, SmtpLogin, SmtpTls};
use serde::Deserialize;
use tempfile::TempDir;

use super::{Certificates, ChildGuard, Port};

/// The interpreter that Debian's `python3-aiosmtpd` is for.
const PYTHON: &str = "/usr/bin/python3";
/// The user who may log in.
const USER: &str = "reeve";
/// The user's password.
const PASSWORD: &str = "a-password-of-the-tests";
/// How long the server may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mail as the server got it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Mail {
    /// The sender of the envelope.
    pub from: String,
    /// The recipients of the envelope.
    pub to: Vec<String>,
    /// Who had logged in.
    pub login: Option<String>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The subject, decoded.
    pub subject: String,
    /// The header `Message-ID`.
    pub message_id: String,
    /// The header `Date`.
    pub date: String,
    /// The header `Auto-Submitted`.
    pub auto_submitted: Option<String>,
    /// The text, decoded.
    pub text: String,
    /// Every byte of it.
    pub raw: String,
}

/// A mail server that runs until it is dropped.
#[derive(Debug)]
pub struct SmtpSink {
    tls: SmtpTls,
    port: Port,
    certificates: Certificates,
    child: Option<ChildGuard>,
    folder: TempDir,
}

impl SmtpSink {
    /// Starts one that speaks like this; with TLS it asks for a login.
    ///
    /// # Errors
    /// When Python or `aiosmtpd` is missing (`tests/run --prepare` installs them), or it does not come up.
    pub async fn start(tls: SmtpTls) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificates = Certificates::create(folder.path())?;
        let mut sink = Self { tls, port: Port::reserve()?, certificates, child: None, folder };
        sink.come_back().await?;
        Ok(sink)
    }

    /// Ends the server; what it was given stays.
    pub fn go_away(&mut self) {
        self.child = None;
    }

    /// Starts the server again at the same port.
    ///
    /// # Errors
    /// As [`SmtpSink::start`].
    pub async fn come_back(&mut self) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("smtp/sink.py");
        let mut command = Command::new(PYTHON);
        command.arg("-u").arg(script);
        command.args(["--port", &self.port.number().to_string(), "--mails"]).arg(self.mails_path());
        command.args(["--tls", word(self.tls)]);
        if self.tls != SmtpTls::None {
            command.arg("--cert").arg(self.certificates.certificate()).arg("--key").arg(self.certificates.key());
            command.args(["--user", USER, "--password", PASSWORD]);
        }
        let mut child = ChildGuard::spawn("the mail server", command, self.folder.path().join("log"))?;
        let up = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port.number())).await.is_err() {
                if let Some(status) = child.try_exit()? {
                    bail!("the mail server ended: {status}\n{}", child.log_tail());
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, up).await.context("the mail server does not come up")??;
        self.child = Some(child);
        Ok(())
    }

    /// How the driver reaches it: mail from `Reeve <reeve@example.org>`, everybody in the domain `example.org`.
    #[must_use]
    pub fn config(&self) -> EmailConfig {
        let is_tls = self.tls != SmtpTls::None;
        EmailConfig {
            port: self.port.number(),
            tls: self.tls,
            ca: is_tls.then(|| self.certificates.ca().to_owned()),
            login: is_tls.then(|| SmtpLogin { user: USER.to_owned(), password: PASSWORD.to_owned() }),
            operators: vec!["ops@example.org".to_owned()],
            domain: Some("example.org".to_owned()),
            timeout: Duration::from_secs(10),
            ..EmailConfig::new("127.0.0.1", "Reeve <reeve@example.org>")
        }
    }

    /// The port that it listens at.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What it was given, in order.
    ///
    /// # Errors
    /// When what it wrote cannot be read.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let path = self.mails_path();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(text.ends_with('\n'), "the last mail is not written yet");
        text.lines().map(|line| serde_json::from_str(line).context("a mail that cannot be read")).collect()
    }

    fn mails_path(&self) -> PathBuf {
        self.folder.path().join("mails.jsonl")
    }
}

const fn word(tls: SmtpTls) -> &'static str {
    match tls {
        SmtpTls::Starttls => "starttls",
        SmtpTls::Tls => "tls",
        SmtpTls::None => "none",
    }
}
