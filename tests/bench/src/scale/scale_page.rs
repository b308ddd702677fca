//! `docs/scale.md`: what a large cluster needs, what breaks first, and what to do then.

mod messages;
mod shards;

use anyhow::Result;

use super::Study;
use super::assumptions::LISTED_BYTES;
use super::demand::{Basis, Demand, breaks_at, demands, first_to_break};
use super::figures::Run;
use super::model::Model;
use super::remedy::{self, Means, Remedy};
use super::text::{bytes, number, of_unit, share, table, vms, wrap};

/// The plot of this page.
pub(super) const PLOT: &str = "scale.svg";
/// Numbers of VMs that are compared.
const FLEETS: [f64; 5] = [100e3, 1e6, 3e6, 10e6, 30e6];

/// The page.
pub(super) fn write(run: &Run, study: &Study) -> Result<String> {
    let model = study.chosen();
    let parts = [
        head(run, model),
        first(model),
        sizes(model),
        beyond(model),
        shards::shards(study),
        messages::a_day(model)?,
        messages::rates(model)?,
        messages::database(model),
        node(model),
        remedies(model),
        assumed(model),
    ];
    Ok(wrap(&parts.join("\n")))
}

fn head(run: &Run, model: &Model) -> String {
    let given = &model.given;
    format!(
        "# A cluster of {} VMs on {} nodes\n\n\
         Written by `reeve-bench scale`: computed from the figures of one run ([benchmarks.md](benchmarks.md)), from the \
         product's own planner that is played through a death, a return, a drain and a rolling restart, and from a month of \
         a VM that is played through the core. Nothing here was measured at this size.\n\n\
         The figures are of {} cores that a node, etcd and the broker shared, with one member of etcd. A cluster has a \
         machine for each and three members; the first makes it faster, the second slower, and neither is computed here.\n",
        number(given.vms),
        given.nodes,
        run.machine.cores
    )
}

fn first(model: &Model) -> String {
    let first = first_to_break(model);
    let at = breaks_at(model, first.what);
    let verdict = if first.used() > 1.0 {
        format!(
            "**{}** breaks first. It needs {} of {} ({}, {}): {}. With {} VMs it is used up. Beyond: {}.",
            first.what,
            of_unit(first.needs, first.unit),
            of_unit(first.has, first.unit),
            first.capacity,
            first.basis.name(),
            share(first.used()),
            vms(at),
            first.beyond
        )
    } else {
        format!("Nothing breaks. Nearest to it is **{}** with {}.", first.what, share(first.used()))
    };
    let slower = slower(model);
    let own: Vec<Demand> = demands(model).into_iter().filter(|demand| demand.basis != Basis::Assumed).collect();
    let over = own.iter().filter(|demand| demand.used() > 1.0).count();
    format!(
        "## The first thing that breaks\n\n{verdict}\n\n{slower}\n\n{over} of {} demands on Reeve, etcd and RabbitMQ are above their \
         capacity, in the busiest hours and with {} shards:\n\n{}\n\
         *Stated* capacities are those of documentation or code; a goal is Reeve's own, and nothing stops where it is missed. The last column is the number of \
         VMs, all else equal, at which nothing is left.\n\n![what is used](plots/{PLOT})\n",
        own.len(),
        model.given.shards,
        uses(model, &own)
    )
}

/// Which goals are missed.
fn slower(model: &Model) -> String {
    let goals = demands(model).into_iter().filter(|demand| demand.basis == Basis::Goal);
    let missed: Vec<String> = goals
        .filter(|goal| goal.used() > 1.0)
        .map(|goal| {
            let needs = of_unit(goal.needs, goal.unit);
            let at = vms(breaks_at(model, goal.what));
            format!("*{}* takes {needs} instead of {} s ({at} VMs would take that)", goal.what, number(goal.has))
        })
        .collect();
    if missed.is_empty() {
        "Every goal is kept.".to_owned()
    } else {
        format!("Slower than its goal: {}.", missed.join("; "))
    }
}

fn uses(model: &Model, demands: &[Demand]) -> String {
    let rows: Vec<Vec<String>> = demands
        .iter()
        .map(|demand| {
            vec![
                demand.what.to_owned(),
                of_unit(demand.needs, demand.unit),
                of_unit(demand.has, demand.unit),
                format!("{} ({})", demand.capacity, demand.basis.name()),
                share(demand.used()),
                vms(breaks_at(model, demand.what)),
            ]
        })
        .collect();
    table(&["demand", "needs", "has", "capacity", "used", "used up at VMs"], &rows)
}

/// The same for other numbers of VMs.
fn sizes(model: &Model) -> String {
    let row = |count: f64| {
        let model = model.with(|given| given.vms = count);
        let (first, (etcds, _)) = (first_to_break(&model), remedy::etcds(&model));
        let death = model.moves.death;
        let (best, worst) = model.load_secs(death.moved, death.gained);
        vec![
            number(count),
            first.what.to_owned(),
            share(first.used()),
            number(etcds),
            bytes(model.memory_of_node()),
            format!("{} to {} s", number(best), number(worst)),
        ]
    };
    let rows: Vec<Vec<String>> = FLEETS.map(row).into();
    let header =
        ["VMs", "nearest to its limit", "used", "etcds needed, as it is", "memory of a node", "loaded after a death"];
    format!("### At other sizes, on as many nodes\n\n{}", table(&header, &rows))
}

/// What is not Reeve's to have.
fn beyond(model: &Model) -> String {
    let others: Vec<Demand> = demands(model).into_iter().filter(|demand| demand.basis == Basis::Assumed).collect();
    let rates = model.rates();
    format!(
        "## What is bought, and what the clouds bear\n\n{}\n\
         These capacities are assumed, a page of a listing with {} s among them. The clouds' API is asked {} times a second for probes (default policy: every VM each \
         {} s, and the guest's view has no bulk call) and for {} pages of listings, as each of {} nodes lists everything \
         every {} s and keeps what is its own.\n",
        uses(model, &others),
        number(model.given.page_secs),
        number(rates.probe_calls),
        number(model.given.probe_secs),
        number(rates.pages),
        model.given.nodes,
        number(model.given.listing_secs)
    )
}

fn node(model: &Model) -> String {
    let cores = model.cores_of_node();
    let mut rows: Vec<Vec<String>> =
        cores.iter().map(|(what, cores)| vec![(*what).to_owned(), number(*cores)]).collect();
    rows.push(vec!["together".into(), number(cores.iter().map(|(_, cores)| cores).sum())]);
    format!(
        "## A node\n\nThe largest, while another is away, has {} VMs and takes {} of memory, {} of it for the listing that is under way. \
         Its processor, in cores:\n\n{}",
        number(model.vms_of(model.moves.most())),
        bytes(model.memory_of_node()),
        bytes(model.given.vms * LISTED_BYTES),
        table(&["what for", "cores"], &rows)
    )
}

fn remedies(model: &Model) -> String {
    let (clusters, decided_by) = remedy::etcds(model);
    let rows: Vec<Vec<String>> = remedy::remedies(model).iter().map(remedied).collect();
    format!(
        "## What to do then\n\n{}\n\
         With records as they are, {} clusters of etcd are needed for everything of etcd's to stay below {}; *{}* decides it. The \
         transaction that writes a record compares the key of its shard and nothing else, so a shard, its key and its records, \
         can lie in any etcd as long as all of it lies in one; a node needs a lease in each, and members, leader and plan stay \
         where they are. That is the way past one etcd's limits, and \
         it divides loads after a death as well. Before it come what is configuration alone, and fewer bytes a record: the \
         byte before each record has room for a compressed form, and the table of a record's parts says where the bytes \
         are. A larger quota is the least: etcd warns above what is suggested, and its members start and catch up more slowly.\n",
        table(&["what is done", "today", "about", "before", "after", "then first", "with"], &rows),
        number(clusters),
        share(model.given.headroom),
        decided_by
    )
}

fn remedied(remedy: &Remedy) -> Vec<String> {
    vec![
        remedy.what.clone(),
        match remedy.means {
            Means::Configuration => "configuration",
            Means::Work => "to be built",
        }
        .to_owned(),
        remedy.before.what.to_owned(),
        share(remedy.before.used()),
        share(remedy.after.used()),
        remedy.next.what.to_owned(),
        share(remedy.next.used()),
    ]
}

fn assumed(model: &Model) -> String {
    let given = &model.given;
    let rows: Vec<[String; 3]> = vec![
        ["VMs, nodes".into(), format!("{}, {}", number(given.vms), given.nodes), "the question".into()],
        ["notifications for a VM and day".into(), number(given.notifications), "assumed, and varied above".into()],
        [
            "of these change something".into(),
            given.changes.to_string(),
            "assumed: a VM is stopped and started once a day".into(),
        ],
        ["busiest hours against the average".into(), number(given.peak), "assumed".into()],
        ["calls for a VM and day".into(), number(given.calls), "assumed".into()],
        [
            "probe, seconds between two".into(),
            format!("{:?}, {}", given.probe, number(given.probe_secs)),
            "the default policy".into(),
        ],
        [
            "seconds between two listings, VMs a page".into(),
            format!("{}, {}", number(given.listing_secs), number(given.page)),
            "the defaults".into(),
        ],
        ["TTL of a node's lease".into(), format!("{} s", given.ttl.as_secs()), "the default".into()],
        [
            "history in etcd".into(),
            format!("{} h", number(given.history_hours)),
            "a retention of 1 h compacts every hour what is older".into(),
        ],
        [
            "a node".into(),
            format!("{} cores, {}", number(given.cores), bytes(given.memory)),
            "assumed: an ordinary one".into(),
        ],
        ["a page of a listing".into(), format!("{} s", number(given.page_secs)), "assumed: ask your cloud".into()],
        [
            "calls that the clouds bear".into(),
            format!("{}/s", number(given.cloud_calls)),
            "assumed: ask your cloud".into(),
        ],
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    format!("## What is assumed\n\n{}", table(&["what", "how much", "why"], &rows))
}
