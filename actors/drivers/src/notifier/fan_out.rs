//! Several channels as one.
//!
//! ```text
//! letter ─► every channel that lacks it ─┬─ all have it ─────────────────────────────────────────► delivered
//!                                        ├─ one is away ─► tried again: only those that lack it ─► …
//!                                        └─ one can never deliver it ─► told to the operators over all ─► delivered
//! ```
//!
//! That a channel is away for long is not told from here: whoever keeps the notice counts its failures, across restarts.

use std::sync::Arc;

use async_trait::async_trait;
use reeve_lifecycle::effect::{Audience, EffectKey, Notice};
use reeve_ports::Notifier;
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_protocol::event::Alert;

use super::progress::{Attempt, Progress};

/// What the key of a report about a notice has over the key of the notice. A decision has fewer effects.
const REPORT: u16 = 0x8000;

/// A step of a delivery that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    /// This channel has the notice.
    Letter(usize),
    /// Somebody was told that a channel can never deliver it.
    Report,
}

/// Delivers through several channels. It is delivered when every channel has it or can never have it, and at least one
/// has; until then the caller tries again, and only the channels that lack it are asked. What a channel can never deliver
/// is told to the operators over all of them, before the notice counts as delivered.
#[derive(Default)]
pub struct FanOut {
    channels: Vec<Arc<dyn Notifier>>,
    progress: Progress<Reached>,
}

impl FanOut {
    /// Through these, in this order.
    #[must_use]
    pub fn new(channels: Vec<Arc<dyn Notifier>>) -> Self {
        Self { channels, progress: Progress::default() }
    }

    /// Tells the operators of what is refused, until one channel has taken that.
    async fn report(
        &self,
        letter: &Letter,
        why: &str,
        attempt: &mut Attempt<'_, Reached>,
    ) -> Result<(), NotifierError> {
        if attempt.has(&Reached::Report) || is_report(&letter.notice) {
            return Ok(());
        }
        let report = report(letter, why);
        let mut answer = Err(NotifierError::Undeliverable(why.to_owned()));
        for channel in &self.channels {
            match channel.deliver(&report).await {
                Ok(()) => {
                    attempt.reached(Reached::Report);
                    answer = Ok(());
                }
                Err(error) => {
                    tracing::warn!(vm = %letter.vm, key = %report.key, %error, "a channel did not deliver a report");
                    if matches!(answer, Err(NotifierError::Undeliverable(_))) {
                        answer = Err(error);
                    }
                }
            }
        }
        answer
    }
}

const fn is_report(notice: &Notice) -> bool {
    matches!(notice, Notice::Alert { alert: Alert::NoticeUndelivered, .. })
}

/// The notice to operators that a channel can never deliver this letter.
fn report(letter: &Letter, why: &str) -> Letter {
    let message = format!("a notice ({}) is not delivered, and not tried again: {why}", letter.notice.name());
    Letter {
        vm: letter.vm,
        vm_name: letter.vm_name.clone(),
        key: EffectKey { index: letter.key.index | REPORT, ..letter.key },
        to: Audience::Operators,
        notice: Notice::Alert { alert: Alert::NoticeUndelivered, message },
        at: letter.at,
        extendable: None,
    }
}

#[async_trait]
impl Notifier for FanOut {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let mut attempt = self.progress.resume(letter);
        let (mut away, mut refused) = (None, Vec::new());
        for (index, channel) in self.channels.iter().enumerate() {
            if attempt.has(&Reached::Letter(index)) {
                continue;
            }
            match channel.deliver(letter).await {
                Ok(()) => attempt.reached(Reached::Letter(index)),
                Err(error) => {
                    tracing::warn!(vm = %letter.vm, key = %letter.key, %error, "a channel did not deliver a notice");
                    match error {
                        NotifierError::Unavailable(_) | NotifierError::Unknown(_) => away = Some(error),
                        NotifierError::Undeliverable(why) => refused.push(why),
                    }
                }
            }
        }
        let is_told = attempt.has_any(|reached| matches!(reached, Reached::Letter(_)));
        let refused = refused.join("; ");
        let reported = if refused.is_empty() { Ok(()) } else { self.report(letter, &refused, &mut attempt).await };
        if let Some(error) = away {
            return Err(error);
        }
        match (is_told, reported) {
            (true, Ok(())) => {
                attempt.over();
                Ok(())
            }
            // Nobody could be told: the next attempt tells them, and bothers nobody who has the notice.
            (true, Err(NotifierError::Unavailable(why) | NotifierError::Unknown(why))) => {
                Err(NotifierError::Unavailable(why))
            }
            (true, Err(error @ NotifierError::Undeliverable(_))) => {
                tracing::error!(vm = %letter.vm, key = %letter.key, %error, "nobody can be told of this");
                attempt.over();
                Ok(())
            }
            (false, _) => {
                attempt.over();
                let why = if refused.is_empty() { "no channel is configured".to_owned() } else { refused };
                Err(NotifierError::Undeliverable(why))
            }
        }
    }
}
