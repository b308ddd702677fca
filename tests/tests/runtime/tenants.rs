//! What the members of one project see and may do.

use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal, Role};
use reeve_protocol::command::{CommandKind, RefusalCode};
use reeve_protocol::{ProjectId, ShardId, Span};

use crate::realm::{Plan, Realm, list, shards};
use crate::world::{command, run, short};

#[test]
fn a_tenant_sees_and_commands_its_own_vms_on_any_node_and_no_others_exist_for_it() {
    run(|| async {
        let realm = Realm::new(Plan::new(16, short(Span::from_days(30)))).await;
        let all = realm.all_leases(16, "active").await;
        for shard in shards().filter(|shard| *shard >= ShardId(2)) {
            realm.council.plan(shard, &realm.b.id);
            realm.until_owned(shard, &realm.b).await;
        }
        let project = ProjectId::new("sim-project-1").unwrap();
        let ann = Principal { role: Role::Tenant(project.clone()), name: "ann".to_owned() };
        let (own, others): (Vec<_>, Vec<_>) = all.iter().partition(|vm| vm.project.as_ref() == Some(&project));
        assert!(!own.is_empty() && !others.is_empty());
        for node in [&realm.a, &realm.b] {
            let reply = node.handle.ask(&ann, list()).await;
            let AdminReply::Vms(seen) = &reply else { panic!("{reply:?}") };
            assert!(seen.iter().map(|vm| vm.id).eq(own.iter().map(|vm| vm.id)));
            let id = format!("stop-{}", node.id);
            for vm in &others {
                for request in [
                    AdminRequest::VmShow(vm.id),
                    AdminRequest::VmHistory(vm.id),
                    AdminRequest::Command(command(&id, vm.id, CommandKind::VmStop)),
                    AdminRequest::Command(command(&id, vm.id, CommandKind::VmAdopt)),
                ] {
                    let reply = node.handle.ask(&ann, request).await;
                    let AdminReply::Refused(refusal) = &reply else { panic!("{reply:?}") };
                    assert_eq!(refusal.code, RefusalCode::NotFound);
                    assert_eq!(refusal.message, format!("no VM {} is known", vm.id));
                }
            }
            let reply = node.handle.ask(&ann, AdminRequest::ActorTree(Some(own[0].id))).await;
            assert!(matches!(&reply, AdminReply::Refused(refusal) if refusal.code == RefusalCode::Denied), "{reply:?}");
        }
        for vm in &own {
            // It says that an operator asks; what a tenant says of itself does not count.
            let exempt = CommandKind::LeaseExempt(reeve_protocol::command::Switch::On);
            let exempted = AdminRequest::Command(command(&format!("exempt-{}", vm.id), vm.id, exempt));
            let reply = realm.a.handle.ask(&ann, exempted).await;
            assert!(matches!(&reply, AdminReply::Refused(refusal) if refusal.code == RefusalCode::Denied), "{reply:?}");
            assert!(matches!(realm.a.handle.ask(&ann, AdminRequest::VmShow(vm.id)).await, AdminReply::Vm(_)));
        }
        realm.stop().await;
    });
}
