//! The parts of the page about what a VM does in a day, what that is a second, and what etcd keeps of it.

use anyhow::Result;

use super::super::assumptions::{QUOTA_DEFAULT, TIMER_CHUNK_SECS};
use super::super::demand::first_to_break;
use super::super::life::{self, Life};
use super::super::model::Model;
use super::super::text::{bytes, number, share, table};

/// Notifications for a VM and day that are compared, and how many of them change something.
const TOLD: [(f64, u32); 3] = [(1.0, 0), (10.0, 2), (100.0, 20)];

pub(super) fn a_day(model: &Model) -> Result<String> {
    let life = &model.life;
    let rows: Vec<Vec<String>> = life::weights()?
        .into_iter()
        .map(|(part, weight)| vec![part.to_owned(), bytes(weight), share(weight / life.resting_bytes)])
        .collect();
    Ok(format!(
        "## A VM's day\n\nFour weeks of a VM through the core, with the default policy: a backup of four disks every day, read back, \
         and thinned out; {} changes a day; a notice and an extension. On an average day its record is written **{} times** and \
         **{} events** are told, of {} each. At the end it has {} backups and its record takes **{}**; the record that the \
         benchmarks use has 5 backups and takes {}, and what they say of writes and loads is of that one. What is in it:\n\n{}",
        model.given.changes,
        number(life.commits),
        number(life.events),
        bytes(life.event_bytes),
        life.backups,
        bytes(life.resting_bytes),
        bytes(model.readings.stored_bytes),
        table(&["part", "bytes", "of the record"], &rows)
    ))
}

pub(super) fn rates(model: &Model) -> Result<String> {
    let mut columns = Vec::new();
    for (told, changes) in TOLD {
        let model = model.with(|given| (given.notifications, given.changes) = (told, changes));
        columns.push(Model { life: Life::play(changes)?, ..model });
    }
    let row = |what: &str, of: &dyn Fn(&Model) -> String| -> Vec<String> {
        std::iter::once(what.to_owned()).chain(columns.iter().map(of)).collect()
    };
    let per_second = |what: &str, of: &dyn Fn(&Model) -> f64| row(what, &|model| number(of(model)));
    let rows = vec![
        per_second("notifications", &|m| m.rates().notifications),
        per_second("of these passed on to the shard's queue", &|m| m.rates().passed_on),
        per_second("events told", &|m| m.rates().events),
        per_second("messages that the brokers take", &|m| m.rates().messages),
        per_second("record writes", &|m| m.rates().commits),
        row("bytes of records written", &|m| bytes(m.rates().written)),
        per_second("signs of life", &|m| m.rates().beats),
        per_second("signs of life told to those who watch", &|m| m.rates().watched),
        per_second("probes", &|m| m.rates().probes),
        per_second("timers that look at the clock", &|m| m.rates().wakes),
        per_second("pages of listings", &|m| m.rates().pages),
        per_second("VMs that a node hears of by listings", &|m| m.rates().listed),
        per_second("RPC calls that a node answers", &|m| m.rates().rpc),
        row("breaks first", &|m| first_to_break(m).what.to_owned()),
        row("notifications through one cloud's queue, used", &|m| {
            share(m.rates().notifications / m.readings.bare_per_second)
        }),
    ];
    let given = &model.given;
    let told = TOLD.map(|(told, changes)| format!("{} a day, {changes} change something", number(told)));
    Ok(format!(
        "## Messages and calls\n\nPer second in the busiest hours ({} times the day's average), with so many notifications for a VM and \
         day:\n\n{}\n\
         Each of {} shards has a quorum queue, beside one a cloud, the requests and the dead letters. A timer looks at the clock \
         at least every {} s. Events are kept for {} days: {} on disk, times the replicas.\n",
        number(given.peak),
        table(&["a second", &told[0], &told[1], &told[2]], &rows),
        given.shards,
        number(TIMER_CHUNK_SECS),
        number(given.audit_days),
        bytes(given.vms * model.life.events * model.life.event_bytes * given.audit_days),
    ))
}

pub(super) fn database(model: &Model) -> String {
    let given = &model.given;
    let measured = if model.readings.database_bytes.is_some() {
        "The room that etcd takes for a record is measured."
    } else {
        "Pages that are not full come on top: the run did not measure them."
    };
    let as_measured = given.vms * model.in_etcd(model.readings.stored_bytes);
    let rows = vec![
        vec![
            "a record after a month".into(),
            bytes(model.resting_bytes()),
            bytes(model.in_etcd(model.resting_bytes())),
        ],
        vec!["all records".into(), bytes(given.vms * model.resting_bytes()), bytes(model.database())],
        vec![
            "all records, were they as those of the benchmarks".into(),
            bytes(given.vms * model.readings.stored_bytes),
            bytes(as_measured),
        ],
        vec![
            format!("history, {} h of the busiest", number(given.history_hours)),
            bytes(model.rates().written * given.history_hours * 3600.0),
            bytes(model.history()),
        ],
    ];
    format!(
        "## etcd's database\n\n{}\n{measured} etcd's default quota is {}, and the largest that its documentation suggests is \
         {} (<https://etcd.io/docs/v3.4/dev-guide/limit/>), which `deploy/README.md` sets. The quota counts the file, which keeps \
         its size when pages in it become free: what the busiest hours need is what counts. A member maps the whole file into \
         memory, and a new member, or one that was away for long, is sent all of it.\n",
        table(&["what", "of values", "in the file"], &rows),
        bytes(QUOTA_DEFAULT),
        bytes(given.quota)
    )
}
