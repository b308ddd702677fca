//! Logging in: renewal before the end, once after a 401, and never a password in what is told.

use std::sync::Arc;
use std::time::Duration;

use reeve_drivers::cloud::openstack::{Login, OpenStackConfig};
use reeve_ports::{Cloud, CloudError};
use reeve_tests::sim_cloud::{HttpFault, SimCloudOptions};

use crate::fixture::{Fixture, driver, driver_config, options};

#[tokio::test]
async fn a_token_that_nothing_takes_any_more_is_renewed_once_for_all() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    fixture.driver.show(vm).await.unwrap();
    fixture.control.revoke_tokens().await.unwrap();
    let calls = (0..8).map(|_| {
        let driver = Arc::clone(&fixture.driver);
        async move { driver.show(vm).await }
    });
    let all = futures::future::join_all(calls);
    let answers = all.await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(fixture.control.counts().await.unwrap().tokens_issued, 2, "one login, and one more for all of them");
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end() {
    let fixture = Fixture::with(SimCloudOptions { token_life: Duration::from_secs(2), ..options() }).await;
    let vm = fixture.first();
    fixture.driver.show(vm).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        fixture.driver.show(vm).await.unwrap();
    }
    let counts = fixture.control.counts().await.unwrap();
    assert!(counts.tokens_issued >= 2, "{counts:?}");
    assert_eq!(counts.tokens_refused, 0, "no call met the end of its token");
}

#[tokio::test]
async fn a_401_that_stays_is_unavailable_and_ends() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    for _ in 0..2 {
        let fault = HttpFault { path: "/servers/".to_owned(), status: 401, ..HttpFault::default() };
        fixture.control.http_fault(&fault).await.unwrap();
    }
    let answer = fixture.driver.show(vm).await;
    assert!(matches!(answer, Err(CloudError::Unavailable(_))), "{answer:?}");
    fixture.driver.show(vm).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_unavailable_and_not_repeated() {
    let fixture = Fixture::start().await;
    let mut config: OpenStackConfig = driver_config(&fixture.server);
    let Login::Password { password, .. } = &mut config.auth.login else { panic!("the user has a password") };
    *password = "a wrong one".to_owned();
    let driver = driver(config);
    let answer = driver.list(None).await.unwrap_err();
    assert!(matches!(&answer, CloudError::Unavailable(why) if why.starts_with("login: 401")), "{answer}");
    assert!(!format!("{answer:?}").contains("a wrong one"));
    let before = fixture.server.requests();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(driver.list(None).await.unwrap_err(), answer);
    assert_eq!(fixture.server.requests(), before, "who tries again and again may be locked out");
}

#[tokio::test]
async fn an_application_credential_logs_in_and_is_renewed() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    let driver = driver(OpenStackConfig::new(fixture.server.credential_auth()));
    driver.show(vm).await.unwrap();
    fixture.control.revoke_tokens().await.unwrap();
    driver.show(vm).await.unwrap();
    assert_eq!(fixture.control.counts().await.unwrap().tokens_issued, 2);
}

#[tokio::test]
async fn an_interface_that_the_catalog_does_not_have_is_named() {
    let fixture = Fixture::start().await;
    let config = OpenStackConfig { region_name: Some("Nowhere".to_owned()), ..driver_config(&fixture.server) };
    let answer = driver(config).list(None).await.unwrap_err().to_string();
    let said = "unavailable: the catalog has no endpoint of compute with interface public in region Nowhere";
    assert_eq!(answer, said);
}

#[tokio::test]
async fn a_cloud_that_is_not_there_is_unavailable() {
    let fixture = Fixture::start().await;
    let mut config = driver_config(&fixture.server);
    config.auth.auth_url = "http://127.0.0.1:1/v3".to_owned();
    let answer = driver(config).start(fixture.first()).await;
    assert!(matches!(answer, Err(CloudError::Unavailable(_))), "{answer:?}");
}
