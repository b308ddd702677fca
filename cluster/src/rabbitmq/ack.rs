//! Acknowledging a delivery, within a limit.
//!
//! lapin 4.12.3 forgets an acknowledgement that is handed over at the moment its connection ends: the future then never
//! completes (seen in about one of four tests that kill the broker). Whoever waited on it would hang for ever.

use std::future::Future;
use std::time::Duration;

use lapin::Acker;
use lapin::options::BasicAckOptions;
use reeve_ports::BusError;

/// Longest time until an acknowledgement is on its way.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often to look whether the channel has ended meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Acknowledges. An error means that the message may be delivered again.
pub(crate) async fn acknowledge(acker: &Acker) -> Result<(), BusError> {
    // False: the channel is gone, or it was acknowledged before.
    let sending = async { matches!(acker.ack(BasicAckOptions::default()).await, Ok(true)) };
    within_limits(sending, || acker.poisoned()).await
}

/// Sends an acknowledgement, which says whether it was handed over, while the channel lives.
pub(crate) async fn within_limits(
    sending: impl Future<Output = bool>,
    has_ended: impl Fn() -> bool,
) -> Result<(), BusError> {
    let ended = async {
        while !has_ended() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        sent = sending => if sent { Ok(()) } else { Err(gone()) },
        () = ended => Err(gone()),
        () = tokio::time::sleep(DEADLINE) => {
            Err(BusError::Unavailable("the acknowledgement was not sent in time; the message may come again".to_owned()))
        }
    }
}

pub(crate) fn gone() -> BusError {
    BusError::Unavailable("the delivery's channel is gone; the message is delivered again".to_owned())
}
