//! The link in a notice, from the record to the click.

use reeve_lifecycle::effect::Notice;
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::RefusalCode;
use reeve_protocol::link::{ExtendLink, LinkKey};
use reeve_protocol::{Span, Timestamp};

use crate::world::{World, run, short, until};

/// Waits for the notice that the end of this period comes near, and makes its link.
async fn link_of(world: &World, ends_at: Timestamp) -> ExtendLink {
    until("the owner is told that the end comes near", || async {
        let letter = world
            .letters
            .letters()
            .into_iter()
            .find(|letter| matches!(&letter.notice, Notice::Expiring { ends_at: told, .. } if *told == ends_at))?;
        let offer = letter.extendable?;
        Some(ExtendLink { vm: letter.vm, ends_at: offer.ends_at, owner: offer.owner, expires_at: offer.until })
    })
    .await
}

#[test]
fn a_link_of_a_notice_extends_once_also_across_a_restart() {
    run(|| async {
        let world = World::new(1, short(Span::from_secs(120))).await;
        let vm = world.all_leases(1, "active").await.remove(0);
        let key = LinkKey::new(&[9; 32]).unwrap();
        let token = key.token(&link_of(&world, vm.lease.ends_at.unwrap()).await);
        let click = || key.command(&token, Timestamp::MIN).unwrap();
        let first = world.ask(AdminRequest::Command(click())).await;
        let AdminReply::Accepted(accepted) = &first else { panic!("{first:?}") };
        assert!(accepted.ends_at > vm.lease.ends_at);
        assert_eq!(world.ask(AdminRequest::Command(click())).await, first, "a second click says the same");
        let world = world.stop().await.start().await;
        assert_eq!(world.ask(AdminRequest::Command(click())).await, first, "so does one after a restart");
        let view = world.show(vm.id).await.unwrap();
        assert_eq!((view.lease.extensions, view.lease.ends_at), (1, accepted.ends_at));
        // Under another id it is told from a repetition, and refused for its period.
        let mut again = click();
        again.id = reeve_protocol::MessageId::new("again").unwrap();
        let again = world.ask(AdminRequest::Command(again)).await;
        let AdminReply::Refused(refusal) = &again else { panic!("{again:?}") };
        assert_eq!(refusal.code, RefusalCode::Conflict);
        world.stop().await;
    });
}
