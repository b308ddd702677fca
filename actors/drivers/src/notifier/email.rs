//! Notices by e-mail: SMTP over TLS, one mail for each address.
//!
//! ```text
//! turn ─► connect, TLS, log in ─► MAIL, RCPT, DATA ─┬─ 2xx ─► delivered
//!   │            │ no                               ├─ 4xx ─► tried again
//!   │            ▼                                  ├─ 5xx ─► this address never takes it
//!   └─ left alone for a moment: tried again         └─ no answer ─► perhaps delivered, tried again
//! ```
//!
//! Whatever goes wrong before MAIL is about the server or the login and goes by; what a server says after it is about the
//! mail. A mail that is sent again because its answer was lost is the same byte for byte, and so has the same `Message-ID`,
//! by which mailboxes tell the second.

mod config;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lettre::Address;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_ports::{Clock, Notifier};
use tokio::sync::Semaphore;

use self::config::Recipients;
pub use self::config::{EmailConfig, SmtpLogin, SmtpTls};
use super::breaker::Breaker;
use super::channel::{brief, whole, within};
use super::progress::Progress;
use super::setting::SettingError;
use super::wording::{Wording, Written};

/// How long a server may take to say goodbye after it took a mail.
const GOODBYE: Duration = Duration::from_secs(1);

/// Sends notices by e-mail.
pub struct EmailNotifier {
    config: EmailConfig,
    from: Mailbox,
    hello: ClientId,
    login: Option<Credentials>,
    tls: Option<TlsParameters>,
    wording: Arc<Wording>,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
    breaker: Breaker,
    progress: Progress<Address>,
}

impl EmailNotifier {
    /// Sends as configured. Connects to nobody yet.
    ///
    /// # Errors
    /// [`SettingError`] when a setting makes no sense, or the file of certificates cannot be read.
    pub fn new(config: EmailConfig, wording: Arc<Wording>, clock: Arc<dyn Clock>) -> Result<Self, SettingError> {
        config.validate()?;
        let login = config.login.as_ref().map(|login| Credentials::new(login.user.clone(), login.password.clone()));
        Ok(Self {
            from: config::mailbox("from", &config.from)?,
            hello: config.hello.clone().map_or_else(ClientId::default, ClientId::Domain),
            login,
            tls: tls(&config)?,
            wording,
            clock,
            turns: Semaphore::new(config.connections),
            breaker: Breaker::default(),
            progress: Progress::default(),
            config,
        })
    }

    /// Sends one mail.
    async fn send(&self, letter: &Letter, written: &Written, to: &Address) -> Result<(), NotifierError> {
        let message = self.message(letter, written, to)?;
        let _turn = self.turns.acquire().await.expect("turns are never closed");
        if let Some(why) = self.breaker.is_open(self.clock.as_ref()) {
            return Err(NotifierError::Unavailable(why));
        }
        let timeout = self.config.timeout;
        let connected = within(self.clock.as_ref(), timeout, self.connect()).await;
        let why = match connected {
            Some(Ok(connection)) => return self.hand_over(connection, &message).await,
            Some(Err(error)) => whole(&error),
            None => format!("no answer within {} ms", timeout.as_millis()),
        };
        let why = format!("e-mail: {} cannot be used: {why}", self.config.host);
        self.breaker.open(self.clock.as_ref(), &why);
        Err(NotifierError::Unavailable(why))
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SmtpError> {
        let EmailConfig { host, port, tls, timeout, .. } = &self.config;
        let from_the_start = self.tls.clone().filter(|_| *tls == SmtpTls::Tls);
        let server = (host.as_str(), *port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, Some(*timeout), &self.hello, from_the_start, None).await?;
        if let (SmtpTls::Starttls, Some(parameters)) = (tls, &self.tls) {
            connection.starttls(parameters.clone(), &self.hello).await?;
        }
        if let Some(login) = &self.login {
            connection.auth(&[Mechanism::Plain, Mechanism::Login], login).await?;
        }
        Ok(connection)
    }

    /// Gives a mail to the server.
    async fn hand_over(&self, mut connection: AsyncSmtpConnection, message: &Message) -> Result<(), NotifierError> {
        let (clock, timeout) = (self.clock.as_ref(), self.config.timeout);
        let bytes = message.formatted();
        let sent = within(clock, timeout, connection.send(message.envelope(), &bytes)).await;
        match sent {
            Some(Ok(_)) => {
                // It has the mail, whatever it says to this.
                let _goodbye = within(clock, GOODBYE, connection.quit()).await;
                Ok(())
            }
            Some(Err(error)) if error.is_permanent() || error.is_client() => {
                Err(NotifierError::Undeliverable(format!("e-mail: {}", whole(&error))))
            }
            Some(Err(error)) if error.is_transient() => {
                Err(NotifierError::Unavailable(format!("e-mail: {}", whole(&error))))
            }
            Some(Err(error)) => Err(NotifierError::Unknown(format!("e-mail: {}", whole(&error)))),
            None => Err(NotifierError::Unknown(format!("e-mail: not taken within {} ms", timeout.as_millis()))),
        }
    }

    fn message(&self, letter: &Letter, written: &Written, to: &Address) -> Result<Message, NotifierError> {
        let unusable = |why: String| NotifierError::Undeliverable(format!("e-mail: {}", brief(&why)));
        let since = Duration::from_millis(u64::try_from(letter.at.as_millis()).unwrap_or_default());
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()]);
        let mut message = Message::builder()
            .envelope(envelope.map_err(|error| unusable(error.to_string()))?)
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(&written.subject)
            .date(SystemTime::UNIX_EPOCH + since)
            .message_id(Some(self.message_id(letter, to)))
            .header(ContentType::TEXT_PLAIN)
            .body(written.text.clone())
            .map_err(|error| unusable(error.to_string()))?;
        // RFC 3834: no robot is to answer.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        message.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".to_owned()));
        Ok(message)
    }

    /// The same for every attempt at the same notice to the same address.
    fn message_id(&self, letter: &Letter, to: &Address) -> String {
        let recipient = blake3::hash(to.to_string().as_bytes()).to_hex();
        let recipient = recipient.get(..16).unwrap_or_default();
        format!("<{}.{}.{recipient}@{}>", letter.vm, letter.key, self.from.email.domain())
    }
}

/// What TLS needs to know, made once: it reads the certificates.
fn tls(config: &EmailConfig) -> Result<Option<TlsParameters>, SettingError> {
    if config.tls == SmtpTls::None {
        return Ok(None);
    }
    let mut builder = TlsParameters::builder(config.host.clone());
    if let Some(path) = &config.ca {
        let wrong = |why: String| SettingError::new("ca", format!("{}: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| wrong(whole(&error)))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    builder.build().map(Some).map_err(|error| SettingError::new("tls", whole(&error)))
}

#[async_trait]
impl Notifier for EmailNotifier {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let Recipients { known, lacking: mut refused } = self.config.recipients(&letter.to);
        let written = self.wording.write(letter);
        let mut attempt = self.progress.resume(letter);
        let mut away = None;
        for to in known {
            if attempt.has(&to) {
                continue;
            }
            match self.send(letter, &written, &to).await {
                Ok(()) => attempt.reached(to),
                Err(NotifierError::Undeliverable(why)) => refused.push(format!("{to}: {why}")),
                Err(error @ (NotifierError::Unavailable(_) | NotifierError::Unknown(_))) => away = Some(error),
            }
        }
        match (away, refused.is_empty()) {
            (Some(error), _) => Err(error),
            (None, true) => {
                attempt.over();
                Ok(())
            }
            // Who has it is remembered: another channel may make the whole notice be tried again.
            (None, false) => Err(NotifierError::Undeliverable(refused.join("; "))),
        }
    }
}
