//! A channel for consuming that is closed when it is dropped, whatever is under way on it.
//!
//! lapin closes a dropped channel too, but not while a `basic.consume` is unanswered: given up then, the consumer comes
//! to life without an owner and holds its messages, on a queue with a single active consumer for ever. Everything here may
//! be given up at any moment (a timeout, a caller that went away), so the channel is closed in so many words.

use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};

use super::link::Session;
use super::wire::short;

/// Longest time for closing a channel in good order; afterwards it closes when the connection does.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// A channel of its owner's own.
#[derive(Debug)]
pub(crate) struct OwnChannel(Option<Channel>);

impl OwnChannel {
    pub(crate) async fn open(session: &Session) -> lapin::Result<Self> {
        Ok(Self(Some(session.connection.create_channel().await?)))
    }

    pub(crate) fn get(&self) -> &Channel {
        self.0.as_ref().expect("only closing, which consumes it, and dropping take the channel")
    }

    /// Consumes a queue with at most `prefetch` unacknowledged messages.
    pub(crate) async fn subscribe(
        &self,
        queue: ShortString,
        prefetch: u16,
        arguments: FieldTable,
    ) -> lapin::Result<Consumer> {
        self.get().basic_qos(prefetch, BasicQosOptions::default()).await?;
        self.get().basic_consume(queue, short(""), BasicConsumeOptions::default(), arguments).await
    }

    /// Closes it: what is unacknowledged goes back in its old order.
    pub(crate) async fn close(mut self) {
        if let Some(channel) = self.0.take() {
            close(channel).await;
        }
    }
}

impl Drop for OwnChannel {
    fn drop(&mut self) {
        let Some(channel) = self.0.take() else { return };
        // Without a runtime the process or the test is ending, and the connection with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(close(channel));
        }
    }
}

async fn close(channel: Channel) {
    if channel.status().connected() {
        let closing = channel.close(200, short("OK"));
        // Too late or refused, the connection's end closes it as well.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, closing).await;
    }
}
