//! What every call to a cloud passes: a breaker for each of its services ([`super::breaker`]), and what is told of them.
//!
//! ```text
//! call ─► enter ─┬─ a short rest that the service asked for ─► waits, and enters again
//!                ├─ a long one, or it does not answer ─► Unavailable, without a call
//!                └─ a pass ─► the call ─► what it tells of the service ─┬─ dropped without a word: see below
//!                                                                       └─ lost, or back ─► whoever watches
//! ```
//!
//! Whoever calls may give up before the service's own time is over, and drops the call. Where that took long, and the
//! call was one that every healthy service answers, it counts as no answer; else it says nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reeve_ports::{Clock, CloudError};
use reeve_protocol::{CloudName, Timestamp};
use tokio::sync::watch;

use super::breaker::{Admission, Admitted, Breaker, Sign, Turn};
use super::session::Service;

/// A rest that is no longer is waited for; a longer one is told to whoever calls.
const SHORT_REST: Duration = Duration::from_secs(2);
/// A call that was dropped after this was not answered.
const LONG: Duration = Duration::from_secs(5);

/// The services of a cloud that do not answer, by their names, and since when.
pub type Outages = BTreeMap<&'static str, Timestamp>;

/// The breakers of a cloud.
pub(super) struct Gate {
    cloud: CloudName,
    clock: Arc<dyn Clock>,
    breakers: Mutex<BTreeMap<Service, Breaker>>,
    outages: watch::Sender<Outages>,
}

/// A call that is under way.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    service: Service,
    /// Until it is told what came of it.
    admitted: Option<Admitted>,
    began: Duration,
    /// What a drop after a long time means.
    dropped: Sign,
}

impl Gate {
    pub(super) fn new(cloud: CloudName, clock: Arc<dyn Clock>) -> Self {
        Self { cloud, clock, breakers: Mutex::default(), outages: watch::Sender::default() }
    }

    /// What does not answer, now and from now on.
    pub(super) fn outages(&self) -> watch::Receiver<Outages> {
        self.outages.subscribe()
    }

    /// Lets a call to a service go. `dropped` is what it tells if it is given up after a long time.
    pub(super) async fn enter(&self, service: Service, dropped: Sign) -> Result<Pass<'_>, CloudError> {
        loop {
            let began = self.clock.elapsed();
            let admission = self.breakers().entry(service).or_default().admit(began);
            let name = service.name();
            match admission {
                Admission::Go(admitted) => {
                    return Ok(Pass { gate: self, service, admitted: Some(admitted), began, dropped });
                }
                Admission::Wait(rest) if rest <= SHORT_REST => self.clock.sleep(rest).await,
                Admission::Wait(rest) => {
                    let why = format!("{name} asks to be left alone for {} s", rest.as_secs());
                    return Err(CloudError::Unavailable(why));
                }
                Admission::Refused(wait) => {
                    let why = format!("{name} does not answer; it is tried again within {} s", wait.as_secs() + 1);
                    return Err(CloudError::Unavailable(why));
                }
            }
        }
    }

    /// The service wants to be left alone for so long.
    pub(super) fn rest(&self, service: Service, span: Duration) {
        let now = self.clock.elapsed();
        self.breakers().entry(service).or_default().rest(span, now);
    }

    fn breakers(&self) -> MutexGuard<'_, BTreeMap<Service, Breaker>> {
        // No change of it can panic half-way.
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, service: Service, admitted: Admitted, sign: Sign) {
        let mut breakers = self.breakers();
        let turn = breakers.entry(service).or_default().sign(admitted, sign, self.clock.elapsed());
        let (cloud, name) = (&self.cloud, service.name());
        // Told while nobody else can turn it, so that the last word is the last turn.
        match turn {
            Some(Turn::Lost) => {
                tracing::warn!(%cloud, service = name, "a service of the cloud does not answer; it is asked seldom");
                let since = self.clock.now();
                self.outages.send_modify(|outages| {
                    outages.insert(name, since);
                });
            }
            Some(Turn::Back) => {
                tracing::info!(%cloud, service = name, "a service of the cloud answers again");
                self.outages.send_modify(|outages| {
                    outages.remove(name);
                });
            }
            None => {}
        }
    }
}

impl Pass<'_> {
    /// What came of the call.
    pub(super) fn tell(mut self, sign: Sign) {
        if let Some(admitted) = self.admitted.take() {
            self.gate.sign(self.service, admitted, sign);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            let took = self.gate.clock.elapsed().saturating_sub(self.began);
            let sign = if took >= LONG { self.dropped } else { Sign::None };
            self.gate.sign(self.service, admitted, sign);
        }
    }
}
