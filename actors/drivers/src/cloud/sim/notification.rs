//! Nova's versioned notifications, as oslo.messaging puts them on the wire: envelope 2.0 around a message whose payload
//! is a versioned object (Nova `doc/source/admin/notifications.rst`; the key sets are those of Nova's own samples).

use reeve_protocol::Timestamp;
use reeve_protocol::observation::PowerState;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::model::SimVm;

/// What a notification tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Start(&'static str),
    End(&'static str),
    Update,
    Lock,
    Unlock,
}

impl Event {
    fn event_type(self) -> String {
        match self {
            Self::Start(stem) => format!("instance.{stem}.start"),
            Self::End(stem) => format!("instance.{stem}.end"),
            Self::Update => "instance.update".to_owned(),
            Self::Lock => "instance.lock".to_owned(),
            Self::Unlock => "instance.unlock".to_owned(),
        }
    }

    const fn object(self) -> (&'static str, &'static str) {
        match self {
            Self::Update => ("InstanceUpdatePayload", "2.1"),
            Self::Start(stem) | Self::End(stem) => match stem.as_bytes() {
                b"create" => ("InstanceCreatePayload", "1.13"),
                b"rebuild" => ("InstanceActionRebuildPayload", "1.10"),
                b"snapshot" => ("InstanceActionSnapshotPayload", "1.10"),
                _ => ("InstanceActionPayload", "1.9"),
            },
            Self::Lock | Self::Unlock => ("InstanceActionPayload", "1.9"),
        }
    }
}

/// The body of an AMQP message that tells this of the VM at `at_us` microseconds since the Unix epoch.
pub(super) fn body(vm: &SimVm, event: Event, at_us: i64, id: Uuid) -> Vec<u8> {
    let (name, version) = event.object();
    let message = json!({
        "message_id": id.hyphenated().to_string(),
        "publisher_id": format!("nova-compute:{}", vm.host),
        "event_type": event.event_type(),
        "priority": "INFO",
        "payload": object(name, version, Value::Object(data(vm, event))),
        "timestamp": naive(at_us),
        "_unique_id": id.simple().to_string(),
    });
    json!({ "oslo.version": "2.0", "oslo.message": message.to_string() }).to_string().into_bytes()
}

/// Python's `str(datetime)`: naive UTC with microseconds, and no fraction at all when they are zero.
fn naive(at_us: i64) -> String {
    let seconds = Timestamp::from_millis(at_us.div_euclid(1_000_000) * 1_000).to_string();
    let seconds = seconds[..19].replace('T', " ");
    match at_us.rem_euclid(1_000_000) {
        0 => seconds,
        micros => format!("{seconds}.{micros:06}"),
    }
}

fn object(name: &str, version: &str, data: Value) -> Value {
    json!({
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    })
}

/// A time in a payload has whole seconds.
fn time(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, |at| Value::String(format!("{}Z", &at.to_string()[..19])))
}

const fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::Pending => "pending",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Shutdown => "shutdown",
        PowerState::Crashed => "crashed",
        PowerState::Suspended => "suspended",
    }
}

fn data(vm: &SimVm, event: Event) -> Map<String, Value> {
    let task = vm.task.as_ref().and_then(|task| task.kind.as_nova());
    let addresses: Vec<Value> = vm.addresses.iter().enumerate().map(|(n, address)| ip(vm, n, address)).collect();
    let Value::Object(mut data) = json!({
        "uuid": vm.id.to_string(),
        "display_name": vm.name,
        "display_description": vm.name,
        "host_name": vm.name,
        "host": vm.host.as_str(),
        "node": vm.host.as_str(),
        "tenant_id": vm.project.as_str(),
        "user_id": vm.user.as_str(),
        "state": vm.state.as_nova(),
        "task_state": task,
        "power_state": power(vm.power),
        "progress": 0,
        "created_at": time(Some(vm.created_at)),
        "updated_at": time(Some(vm.created_at)),
        "launched_at": time(vm.launched_at),
        "deleted_at": time(vm.deleted_at),
        "terminated_at": time(vm.deleted_at),
        "image_uuid": "155d900f-4e14-4e4c-a73d-069cbf4541e6",
        "flavor": flavor(),
        "ip_addresses": addresses,
        "block_devices": [],
        "metadata": vm.metadata,
        "key_name": null,
        "locked": vm.locked,
        "locked_reason": null,
        "availability_zone": "nova",
        "request_id": null,
        "action_initiator_user": vm.user.as_str(),
        "action_initiator_project": vm.project.as_str(),
        "reservation_id": "r-00000000",
        "architecture": "x86_64",
        "os_type": null,
        "kernel_id": "",
        "ramdisk_id": "",
        "auto_disk_config": "MANUAL",
        "shares": [],
    }) else {
        unreachable!("an object is written above")
    };
    add_own_keys(&mut data, vm, event);
    data
}

fn add_own_keys(data: &mut Map<String, Value>, vm: &SimVm, event: Event) {
    let mut add = |key: &str, value: Value| {
        data.insert(key.to_owned(), value);
    };
    match event {
        Event::Update => {
            let state = vm.state.as_nova();
            let task = vm.task.as_ref().and_then(|task| task.kind.as_nova());
            let update = json!({ "old_state": state, "state": state, "old_task_state": null, "new_task_state": task });
            add("state_update", object("InstanceStateUpdatePayload", "1.0", update));
            let at = time(Some(vm.created_at));
            let period = json!({ "audit_period_beginning": at, "audit_period_ending": at });
            add("audit_period", object("AuditPeriodPayload", "1.0", period));
            add("old_display_name", Value::Null);
            add("tags", json!([]));
        }
        Event::Start(stem) | Event::End(stem) => {
            add("fault", Value::Null);
            match stem {
                "create" => {
                    add("keypairs", json!([]));
                    add("tags", json!([]));
                    add("trusted_image_certificates", Value::Null);
                    add("instance_name", Value::String(format!("instance-{}", &vm.id.to_string()[..8])));
                }
                "rebuild" => add("trusted_image_certificates", Value::Null),
                "snapshot" => add("snapshot_image_id", Value::String(vm.id.to_string())),
                _ => {}
            }
        }
        Event::Lock | Event::Unlock => add("fault", Value::Null),
    }
}

fn flavor() -> Value {
    let data = json!({
        "description": null, "disabled": false, "ephemeral_gb": 0, "extra_specs": {},
        "flavorid": "a22d5517-147c-4147-a0d1-e698df5cd4e3", "is_public": true, "memory_mb": 512, "name": "sim.small",
        "projects": null, "root_gb": 1, "rxtx_factor": 1.0, "swap": 0, "vcpu_weight": 0, "vcpus": 1,
    });
    object("FlavorPayload", "1.4", data)
}

fn ip(vm: &SimVm, n: usize, address: &str) -> Value {
    let [.., a, b] = vm.id.uuid().into_bytes();
    let data = json!({
        "address": address, "version": 4, "mac": format!("fa:16:3e:{a:02x}:{b:02x}:{:02x}", n % 256),
        "label": "public", "device_name": format!("tap{a:02x}{b:02x}-{n}"), "port_uuid": vm.id.to_string(), "meta": {},
    });
    object("IpPayload", "1.0", data)
}
