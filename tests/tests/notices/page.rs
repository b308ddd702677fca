//! The page behind a link: a real node, a real mail server, and whoever clicks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reeve_drivers::SmtpTls;
use reeve_protocol::admin::{AdminReply, AdminRequest, VmView};
use reeve_protocol::link::{ExtendLink, LinkKey};
use reeve_protocol::{Span, Timestamp};
use reeve_tests::harness::{Certificates, Control, Port, SmtpSink};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

const SECRET: &str = "a secret of the tests that signs links";
/// A node finds its VM, warns, and mails within seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// A node with one VM, whose owner is warned at once and may extend once.
fn sections(http: u16, smtp: u16, scheme: &str, more: &str) -> String {
    format!(
        "[http]\nlisten = \"127.0.0.1:{http}\"\n{more}\
         [notify.link]\nurl = \"{scheme}://127.0.0.1:{http}/extend\"\nsecret = \"{SECRET}\"\n\
         [notify.email]\nhost = \"127.0.0.1\"\nport = {smtp}\ntls = \"none\"\nfrom = \"reeve@example.org\"\n\
         domain = \"example.org\"\n\
         [[cloud]]\nname = \"lab\"\ndriver = \"sim\"\nvms = 1\n\
         [policy.default.lease]\nduration = \"30m\"\nwarn_before = [\"29m58s\"]\nextension = \"1h\"\nmax_extensions = 1\n\
         max_total = \"1d\"\nmin_notice = \"1s\"\n[policy.default.backup]\nevery = \"0s\"\n"
    )
}

fn client(authority: Option<&std::path::Path>) -> Client {
    // Another test of this process may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = Client::builder().timeout(PATIENCE);
    if let Some(path) = authority {
        let pem = std::fs::read(path).unwrap();
        builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()]);
    }
    builder.build().unwrap()
}

/// The first mail with a link, and the link.
async fn link(sink: &SmtpSink) -> Result<String> {
    let found = async {
        loop {
            // The sink may be in the middle of writing.
            let mails = sink.mails().unwrap_or_default();
            let mut words = mails.iter().flat_map(|mail| mail.text.split_whitespace());
            if let Some(link) = words.find(|word| word.contains("/extend?token=")) {
                return link.to_owned();
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, found).await.context("no mail with a link came")
}

async fn vm(node: &Control) -> Result<VmView> {
    let mut vms = node.vms().await?;
    ensure!(vms.len() == 1, "{vms:?}");
    Ok(vms.remove(0))
}

async fn post(client: &Client, url: &str, token: &str) -> Result<(StatusCode, Value)> {
    let request = client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let response = request.header(ACCEPT, "application/json").body(format!("token={token}")).send().await?;
    Ok((response.status(), serde_json::from_str(&response.text().await?)?))
}

#[tokio::test]
async fn live_a_link_out_of_a_mail_is_shown_extends_once_and_not_beyond_the_cap() -> Result<()> {
    let (sink, port) = (SmtpSink::start(SmtpTls::None).await?, Port::reserve()?);
    let node = Control::start(&sections(port.number(), sink.port(), "http", "")).await?;
    let client = client(None);
    let base = format!("http://127.0.0.1:{}", port.number());
    assert_eq!(client.get(format!("{base}/healthz")).send().await?.status(), StatusCode::OK);

    let link = link(&sink).await?;
    assert_eq!(client.get(format!("{base}/readyz")).send().await?.status(), StatusCode::OK);
    let token = link.split_once("?token=").context("a link has a token")?.1;
    let before = vm(&node).await?;
    let ends_at = before.lease.ends_at.context("a lease")?;

    // Mail scanners follow links.
    for _ in 0..3 {
        let shown = client.get(&link).send().await?;
        assert_eq!(shown.status(), StatusCode::OK);
        let text = shown.text().await?;
        assert!(text.contains(&before.name) && text.contains("Extend by 1h") && text.contains("<form"), "{text}");
    }
    assert_eq!(vm(&node).await?.lease, before.lease, "a GET changed the lease");

    let page = format!("{base}/extend");
    // A double click.
    let (one, two) = tokio::join!(post(&client, &page, token), post(&client, &page, token));
    for (status, answer) in [one?, two?] {
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["ends_at"], (ends_at + Span::from_secs(3600)).to_string());
    }
    let extended = vm(&node).await?.lease;
    assert_eq!((extended.extensions, extended.ends_at), (1, Some(ends_at + Span::from_secs(3600))));
    let (status, again) = post(&client, &page, token).await?;
    assert_eq!((status, again["result"].as_str()), (StatusCode::OK, Some("already_extended")), "{again}");
    assert_eq!(vm(&node).await?.lease.ends_at, extended.ends_at);

    let tampered = token.replacen("lease-extend.ey", "lease-extend.eX", 1);
    let (status, problem) = post(&client, &page, &tampered).await?;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::FORBIDDEN, Some("wrong_link")), "{problem}");

    // No notice offers this one: the cap is reached.
    let beyond = ExtendLink {
        vm: before.id,
        ends_at: extended.ends_at.context("a lease")?,
        owner: before.user.clone().context("an owner")?,
        expires_at: Timestamp::MAX,
    };
    let beyond = LinkKey::new(SECRET.as_bytes())?.token(&beyond);
    let (status, problem) = post(&client, &page, &beyond).await?;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::FORBIDDEN, Some("denied")), "{problem}");
    assert!(problem["detail"].as_str().context("words")?.contains("an operator can"), "{problem}");
    assert_eq!(vm(&node).await?.lease.ends_at, extended.ends_at);

    let log = String::from_utf8(node.log()?)?;
    for secret in [token, &beyond, &tampered] {
        assert!(!log.contains(secret), "the log has a token\n{log}");
    }
    Ok(())
}

#[tokio::test]
async fn live_the_page_is_served_over_tls_and_a_port_that_is_taken_ends_the_start() -> Result<()> {
    let (folder, port) = (tempfile::tempdir()?, Port::reserve()?);
    let certificates = Certificates::create(folder.path())?;
    let tls = format!("cert = {:?}\nkey = {:?}\n", certificates.certificate(), certificates.key());
    let sections = sections(port.number(), 25, "https", &tls);
    let node = Control::start(&sections).await?;
    let client = client(Some(certificates.ca()));
    let url = format!("https://127.0.0.1:{}/healthz", port.number());
    assert_eq!(client.get(&url).send().await?.status(), StatusCode::OK);
    assert!(matches!(node.ask(AdminRequest::Node).await?, AdminReply::Node(_)));

    let error = format!("{:#}", Control::start(&sections).await.unwrap_err());
    let expected = format!("http.listen: cannot listen on 127.0.0.1:{}", port.number());
    assert!(error.contains(&expected), "{error}");
    Ok(())
}
