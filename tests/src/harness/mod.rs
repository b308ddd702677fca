//! Starts real servers for the tests, each one private: own ports, own data, nothing of the machine's touched.
//!
//! A server lives as long as the value that stands for it. It also ends when the test process is killed, because a
//! [`ChildGuard`] leaves a watcher behind that notices.
//!
//! A test that needs a real server is named `live_...`, so that `tests/run --quick` can leave it out. A missing server
//! binary fails such a test; it never skips it.

pub mod amqp;
pub mod control;
pub mod etcd;
pub mod log;
pub mod one_image;
pub mod openstack;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod rabbitmq;
pub mod reeve;
pub mod smtp;

mod authority;
mod certificates;

pub use authority::certify;
pub use certificates::Certificates;
pub use control::Control;
pub use etcd::Etcd;
pub use log::{ErrorGuard, forbid_errors, forbid_errors_everywhere};
pub use one_image::OneImage;
pub use openstack::OpenStack;
pub use ports::Port;
pub use process::ChildGuard;
pub use proxy::{Mode, Proxy};
pub use rabbitmq::{RabbitCluster, RabbitMq};
pub use reeve::reeve_binary;
pub use smtp::SmtpSink;
