//! Images that servers are made of.

use futures::StreamExt;
use reeve_lifecycle::effect::Disk;
use reeve_ports::Cloud;
use reeve_ports::cloud::{DiskSource, LaunchSpec, OPERATION_KEY, REVIVED_FROM_KEY};

use crate::fixture::Fixture;

fn disk(disk: Disk, content: Vec<u8>) -> DiskSource {
    let bytes = content.len() as u64;
    DiskSource { disk, bytes, content: futures::stream::iter([Ok(content.into())]).boxed() }
}

/// Uploaded as raw, a qcow2 would be written to the new server's disk as it is, and nothing would boot.
#[tokio::test]
async fn a_disk_goes_back_in_the_format_that_it_came_in() {
    let fixture = Fixture::start().await;
    let like = fixture.first();
    let keys = [(OPERATION_KEY, "op/1".to_owned()), (REVIVED_FROM_KEY, like.to_string())];
    let mut qcow2 = [&b"QFI\xfb"[..], &3_u32.to_be_bytes()].concat();
    qcow2.resize(4_096, 0);
    let volume = Disk::Volume(fixture.driver.inventory(like).await.unwrap().volumes[0].id.clone());
    let spec = LaunchSpec {
        name: "again".to_owned(),
        metadata: keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        like,
        addresses: 0,
        disks: vec![disk(Disk::Root, qcow2), disk(volume, vec![7; 4_096])],
    };
    fixture.driver.launch(spec).await.unwrap();
    let formats = fixture.server.image_formats();
    let of = |part: &str| formats.iter().find(|(name, _)| name.contains(part)).map(|(_, format)| format.as_str());
    assert_eq!(of("root"), Some("qcow2"), "{formats:?}");
    assert_eq!(of("volume"), Some("raw"), "{formats:?}");
}
