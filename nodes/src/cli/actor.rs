//! `reeve actor …`

use std::str::FromStr;

use clap::{Args, Subcommand};
use reeve_protocol::admin::{ActorView, AdminReply, AdminRequest};
use reeve_protocol::event::Child;
use reeve_protocol::{NodeId, Timestamp, VmId};

use super::dead::done;
use super::fail::{Code, Failure};
use super::find;
use super::output::{Output, View};
use super::session::{Session, now, unexpected};
use super::table::{self, Cell, Color, Tone, clean};
use super::vm::word;
use super::when;

/// What to do with actors.
#[derive(Debug, Subcommand)]
pub(super) enum ActorCommand {
    /// Draw the tree of live actors: of the node that answers, of another, or of one VM
    Tree {
        /// node/ID, vm/ID, or a VM by its id, the start of it, or its name
        actor: Option<Root>,
    },
    /// Show one actor
    Show(Which),
    /// Stop an actor in order and start it again
    Restart(Which),
    /// Kill an actor, as a crash would; it is restarted and nothing is lost
    Kill(Which),
}

/// Which actor.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// vm/ID for a VM's supervisor, vm/ID/CHILD for lease-timer, poller, repairer, backup-worker or action-worker
    actor: Path,
}

/// Where a tree begins.
#[derive(Debug, Clone)]
pub(super) enum Root {
    /// `node/ID`.
    Node(NodeId),
    /// `[vm/]VM`.
    Vm(Path),
}

impl FromStr for Root {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("node/") {
            Some(id) => NodeId::new(id).map(Self::Node).map_err(|error| error.to_string()),
            None => text.parse().map(Self::Vm),
        }
    }
}

/// `[vm/]VM[/CHILD]`.
#[derive(Debug, Clone)]
pub(super) struct Path {
    vm: String,
    child: Option<Child>,
}

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("vm/").unwrap_or(text);
        let (vm, child) = match rest.split_once('/') {
            Some((vm, child)) => (vm, Some(parse_child(child)?)),
            None => (rest, None),
        };
        if vm.is_empty() {
            return Err("expected vm/ID or vm/ID/CHILD".into());
        }
        Ok(Self { vm: vm.to_owned(), child })
    }
}

const CHILDREN: [Child; 5] =
    [Child::LeaseTimer, Child::Poller, Child::Repairer, Child::BackupWorker, Child::ActionWorker];

fn parse_child(text: &str) -> Result<Child, String> {
    let wanted = text.replace('-', "_");
    CHILDREN.into_iter().find(|child| word(child) == wanted).ok_or_else(|| {
        let names: Vec<String> = CHILDREN.iter().map(|child| word(child).replace('_', "-")).collect();
        format!("no child is called {text:?}, expected one of {}", names.join(", "))
    })
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: ActorCommand) -> Result<(), Failure> {
    match command {
        ActorCommand::Tree { actor } => tree(session, output, actor).await,
        ActorCommand::Show(which) => show(session, output, which.actor).await,
        ActorCommand::Restart(Which { actor }) => {
            let vm = find::vm_id(session, &actor.vm).await?;
            done(session, AdminRequest::ActorRestart { vm, child: actor.child }).await?;
            output.note(&format!("{} is restarted", name(vm, actor.child)));
            Ok(())
        }
        ActorCommand::Kill(Which { actor }) => {
            let vm = find::vm_id(session, &actor.vm).await?;
            done(session, AdminRequest::ActorKill { vm, child: actor.child }).await?;
            output.note(&format!("{} is killed, and is being restarted", name(vm, actor.child)));
            Ok(())
        }
    }
}

fn name(vm: VmId, child: Option<Child>) -> String {
    child.map_or_else(|| format!("vm/{vm}"), |child| format!("vm/{vm}/{}", word(&child)))
}

async fn actors(session: &Session, request: AdminRequest) -> Result<ActorView, Failure> {
    match session.ask(request).await? {
        AdminReply::Actors(root) => Ok(*root),
        other => Err(unexpected(&other)),
    }
}

async fn tree(session: &Session, output: Output, actor: Option<Root>) -> Result<(), Failure> {
    let request = match &actor {
        Some(Root::Vm(path)) => AdminRequest::ActorTree(Some(find::vm_id(session, &path.vm).await?)),
        Some(Root::Node(node)) => AdminRequest::ActorTreeOf(node.clone()),
        None => AdminRequest::ActorTree(None),
    };
    let root = actors(session, request).await?;
    let now = now();
    let drawn = |color| {
        let mut text = String::new();
        draw(&root, ["", ""], now, color, &mut text);
        text
    };
    output.show(&View { value: &root, table: &drawn, ids: names(&root) })
}

fn names(actor: &ActorView) -> Vec<String> {
    std::iter::once(actor.name.clone()).chain(actor.children.iter().flat_map(names)).collect()
}

/// Draws an actor after `lead[0]` and those below it after `lead[1]`. As deep as the tree, which is bounded by design.
fn draw(actor: &ActorView, lead: [&str; 2], now: Timestamp, color: Color, text: &mut String) {
    let state = Tone::of(&actor.state).paint(&clean(&actor.state), color);
    let restarts = match actor.restarts {
        0 => String::new(),
        1 => ", 1 restart".into(),
        n => format!(", {n} restarts"),
    };
    let mailbox = actor.mailbox.filter(|waiting| *waiting > 0).map(|n| format!(", {n} waiting")).unwrap_or_default();
    let since = when::relative(actor.since, now);
    text.push_str(&format!("{}{}  {state}  (since {since}{restarts}{mailbox})\n", lead[0], clean(&actor.name)));
    let count = actor.children.len();
    for (index, child) in actor.children.iter().enumerate() {
        let (branch, below) = if index + 1 == count { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(child, [&format!("{}{branch}", lead[1]), &format!("{}{below}", lead[1])], now, color, text);
    }
}

async fn show(session: &Session, output: Output, path: Path) -> Result<(), Failure> {
    let vm = find::vm_id(session, &path.vm).await?;
    let root = actors(session, AdminRequest::ActorTree(Some(vm))).await?;
    let actor = match path.child {
        None => Some(&root),
        Some(child) => {
            let wanted = word(&child);
            root.children
                .iter()
                .find(|actor| actor.name.rsplit('/').next().unwrap_or_default().replace('-', "_") == wanted)
        }
    };
    let missing = || Failure::new(Code::NotFound, format!("{} does not run now", name(vm, path.child)));
    let actor = actor.ok_or_else(missing)?;
    let pairs = [
        ("name", Cell::new(&actor.name)),
        ("state", Cell::state(&actor.state)),
        ("since", Cell::new(when::both(actor.since, now()))),
        ("restarts", Cell::new(actor.restarts.to_string())),
        ("waiting", Cell::new(actor.mailbox.map(|n| n.to_string()).unwrap_or_default())),
        ("children", Cell::new(actor.children.len().to_string())),
    ];
    output.show(&View { value: actor, table: &|color| table::pairs(&pairs, color), ids: vec![actor.name.clone()] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_named_by_its_path() {
        let path: Path = "vm/web-1/lease-timer".parse().unwrap();
        assert_eq!((path.vm.as_str(), path.child), ("web-1", Some(Child::LeaseTimer)));
        assert_eq!("web-1".parse::<Path>().unwrap().child, None);
        assert!("vm/x/plumber".parse::<Path>().unwrap_err().contains("backup-worker"));
        assert!("vm/".parse::<Path>().is_err());
        assert!(matches!("node/n1".parse(), Ok(Root::Node(id)) if id.as_str() == "n1"));
        assert!(matches!("web-1".parse(), Ok(Root::Vm(path)) if path.vm == "web-1"));
        assert!("node/".parse::<Root>().is_err());
    }

    #[test]
    fn a_tree_is_drawn_with_branches() {
        let leaf = |name: &str, restarts| ActorView {
            name: name.into(),
            state: "waiting".into(),
            restarts,
            since: Timestamp::EPOCH,
            mailbox: Some(0),
            children: Vec::new(),
        };
        let root = ActorView {
            children: vec![leaf("a", 0), ActorView { children: vec![leaf("c", 2)], ..leaf("b", 1) }],
            ..leaf("node", 0)
        };
        let mut text = String::new();
        draw(&root, ["", ""], Timestamp::EPOCH, Color::Off, &mut text);
        let expected = "node  waiting  (since now)\n├─ a  waiting  (since now)\n└─ b  waiting  (since now, 1 restart)\n   └─ c  waiting  (since now, 2 restarts)\n";
        assert_eq!(text, expected);
    }
}
