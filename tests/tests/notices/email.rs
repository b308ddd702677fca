//! E-mail to a real mail server.

use std::sync::Arc;
use std::time::Duration;

use reeve_drivers::{EmailConfig, EmailNotifier, SmtpLogin, SmtpTls};
use reeve_lifecycle::effect::Audience;
use reeve_ports::conformance::notifier::{notices, run};
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_ports::{Clock, Notifier};
use reeve_tests::harness::{Certificates, SmtpSink};

use crate::fixture::{clock, expiring, key, wording};

pub(crate) fn channel(config: EmailConfig) -> EmailNotifier {
    EmailNotifier::new(config, wording(), clock()).unwrap()
}

fn why(answer: Result<(), NotifierError>) -> String {
    match answer {
        Err(NotifierError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn live_every_notice_goes_out_over_tls_with_a_login() {
    for tls in [SmtpTls::Starttls, SmtpTls::Tls] {
        let sink = SmtpSink::start(tls).await.unwrap();
        run(&channel(sink.config())).await;
        let mails = sink.mails().unwrap();
        // Each notice twice to the owner and once to the operators.
        assert_eq!(mails.len(), 3 * notices().len());
        assert!(mails.iter().all(|mail| mail.tls && mail.login.as_deref() == Some("reeve")), "{tls:?}");
    }
}

#[tokio::test]
async fn live_a_relay_on_this_machine_needs_neither() {
    let sink = SmtpSink::start(SmtpTls::None).await.unwrap();
    channel(sink.config()).deliver(&expiring(&["ann"])).await.unwrap();
    let mails = sink.mails().unwrap();
    assert_eq!((mails.len(), mails[0].tls), (1, false));
}

#[tokio::test]
async fn live_a_mail_says_what_the_notice_says_and_its_link_extends() {
    let sink = SmtpSink::start(SmtpTls::Starttls).await.unwrap();
    let letter = Letter { vm_name: "büro\r\nBcc: eve@example.org".to_owned(), ..expiring(&["ann"]) };
    channel(sink.config()).deliver(&letter).await.unwrap();
    let mail = sink.mails().unwrap().remove(0);
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("reeve@example.org", ["ann@example.org".to_owned()].as_slice())
    );
    assert_eq!(mail.subject, "The lease of büro  Bcc: eve@example.org ends at 2023-11-14 22:13 UTC");
    assert!(!mail.raw.contains("\nBcc:"), "{}", mail.raw);
    assert_eq!(mail.auto_submitted.as_deref(), Some("auto-generated"));
    let link = mail.text.lines().find_map(|line| line.strip_prefix("https://reeve.example/extend?token="));
    let offer = letter.extendable.unwrap();
    let command = key().command(link.expect("there is a link"), offer.ends_at).unwrap();
    assert_eq!((command.vm, command.by.to_string().as_str()), (letter.vm, offer.owner.as_str()));
}

#[tokio::test]
async fn live_an_address_that_is_refused_keeps_nobody_else_from_the_notice_and_is_told() {
    let sink = SmtpSink::start(SmtpTls::Starttls).await.unwrap();
    let channel = channel(sink.config());
    let letter = expiring(&["refused", "ann", "bob"]);
    for _ in 0..2 {
        let Err(NotifierError::Undeliverable(why)) = channel.deliver(&letter).await else { panic!("it is refused") };
        assert!(why.contains("refused@example.org") && why.contains("550") && !why.contains("ann"), "{why}");
    }
    let to: Vec<String> = sink.mails().unwrap().into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(to, ["ann@example.org", "bob@example.org"], "each of the others once");
}

#[tokio::test]
async fn who_has_no_address_is_told_without_asking_a_server() {
    let config =
        EmailConfig { domain: None, operators: Vec::new(), ..EmailConfig::new("127.0.0.1", "reeve@example.org") };
    let channel = channel(config);
    for (letter, expected) in [
        (expiring(&["ann"]), "user ann has no address"),
        (Letter { to: Audience::Operators, ..expiring(&[]) }, "the operators have no address"),
    ] {
        assert_eq!(channel.deliver(&letter).await, Err(NotifierError::Undeliverable(expected.to_owned())));
    }
}

#[tokio::test]
async fn live_a_server_that_says_later_gets_it_later() {
    let sink = SmtpSink::start(SmtpTls::Starttls).await.unwrap();
    let channel = channel(sink.config());
    let letter = expiring(&["ann", "later"]);
    assert!(why(channel.deliver(&letter).await).contains("451"));
    channel.deliver(&letter).await.unwrap();
    let to: Vec<String> = sink.mails().unwrap().into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(to, ["ann@example.org", "later@example.org"]);
}

#[tokio::test]
async fn live_a_mail_whose_answer_was_lost_is_sent_again_byte_for_byte() {
    let sink = SmtpSink::start(SmtpTls::Starttls).await.unwrap();
    let channel = channel(sink.config());
    let letter = expiring(&["lost"]);
    let lost = channel.deliver(&letter).await;
    assert!(matches!(lost, Err(NotifierError::Unknown(_))), "{lost:?}");
    channel.deliver(&letter).await.unwrap();
    let mails = sink.mails().unwrap();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0], mails[1], "a mailbox knows the second by its id");
    assert!(mails[0].message_id.ends_with("@example.org>"), "{}", mails[0].message_id);
}

#[tokio::test]
async fn live_a_server_that_never_answers_is_given_up_and_the_outcome_is_unknown() {
    let sink = SmtpSink::start(SmtpTls::Starttls).await.unwrap();
    let channel = channel(EmailConfig { timeout: Duration::from_secs(2), ..sink.config() });
    let silent = channel.deliver(&expiring(&["silent"])).await;
    assert!(matches!(silent, Err(NotifierError::Unknown(_))), "{silent:?}");
}

#[tokio::test]
async fn live_nothing_is_said_to_a_server_that_is_not_who_it_should_be() {
    let sink = SmtpSink::start(SmtpTls::Starttls).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other = Certificates::create(folder.path()).unwrap();
    let wrong_login = SmtpLogin { user: "reeve".into(), password: "not-the-password".into() };
    for config in [
        EmailConfig { ca: Some(other.ca().to_owned()), ..sink.config() },
        // Speaks TLS from the start to one that begins in the clear.
        EmailConfig { tls: SmtpTls::Tls, timeout: Duration::from_secs(3), ..sink.config() },
        EmailConfig { login: Some(wrong_login), ..sink.config() },
        EmailConfig { login: None, tls: SmtpTls::None, ca: None, ..sink.config() },
    ] {
        let answer = channel(config).deliver(&expiring(&["ann"])).await;
        let Err(NotifierError::Unavailable(why) | NotifierError::Undeliverable(why)) = answer else {
            panic!("{answer:?}")
        };
        assert!(!why.contains("not-the-password") && !why.contains("a-password-of"), "{why}");
    }
    assert_eq!(sink.mails().unwrap(), []);
    // One that cannot become TLS is told neither password nor mail.
    let plain = SmtpSink::start(SmtpTls::None).await.unwrap();
    let config = EmailConfig { port: plain.port(), ..sink.config() };
    assert!(why(channel(config).deliver(&expiring(&["ann"])).await).contains("STARTTLS"));
    assert_eq!(plain.mails().unwrap(), []);
}

#[tokio::test]
async fn a_server_that_hangs_does_not_hold_up_every_notice() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Takes connections and says nothing.
    let mut taken = Vec::new();
    let clock = clock();
    let config = EmailConfig {
        port,
        tls: SmtpTls::None,
        domain: Some("example.org".into()),
        timeout: Duration::from_millis(500),
        connections: 1,
        ..EmailConfig::new("127.0.0.1", "reeve@example.org")
    };
    let channel = EmailNotifier::new(config, wording(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let letter = expiring(&["ann"]);
    let calls = futures::future::join_all((0..200).map(|_| channel.deliver(&letter)));
    let answers = tokio::select! {
        answers = calls => answers,
        () = async { loop { taken.push(listener.accept().await.unwrap()) } } => unreachable!("it takes for ever"),
    };
    assert!(answers.iter().all(|answer| matches!(answer, Err(NotifierError::Unavailable(_)))));
    assert_eq!(taken.len(), 1, "whoever waited for the first is answered by it");
    clock.by(Duration::from_secs(60));
    let again = tokio::select! {
        again = channel.deliver(&letter) => again,
        () = async { loop { taken.push(listener.accept().await.unwrap()) } } => unreachable!("it takes for ever"),
    };
    assert!(again.is_err());
    assert_eq!(taken.len(), 2, "a moment later it is asked again");
}
