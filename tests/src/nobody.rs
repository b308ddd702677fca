//! Nobody to introduce a VM to, and nobody who waits for word: for performing effects that do neither.

use async_trait::async_trait;
use reeve_lifecycle::VmInput;
use reeve_lifecycle::operation::ReplyTo;
use reeve_protocol::{CloudName, VmId};
use reeve_runtime::Introducer;

/// Takes everything, and does nothing.
pub struct Nobody;

#[async_trait]
impl Introducer for Nobody {
    async fn introduce(&self, _: VmId, _: &CloudName, _: VmInput) -> Result<(), String> {
        Ok(())
    }

    async fn report(&self, _: &ReplyTo, _: &str, _: Vec<u8>) -> Result<(), String> {
        Ok(())
    }
}
