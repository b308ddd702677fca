//! The slow obvious model of a lease: a plain list of what happened, read from its beginning whenever somebody asks.
//!
//! It is written from the rules, not from the core: no phases, no timers, no operations. It knows when a lease must
//! end, what may be extended, and what must have become of the VM.

use reeve_lifecycle::policy::{Adopt, OnEnd, Policy};
use reeve_ports::cloud::REVIVED_FROM_KEY;
use reeve_protocol::observation::{Said, VmFacts, VmState};
use reeve_protocol::{Span, Timestamp};

/// Something that happened to a VM, as far as its lease cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// It came under care.
    Found,
    /// Its creation was seen.
    SeenCreated,
    /// Its launch became known: when it was.
    Launched(Timestamp),
    /// Its creation and its launch are both known, in whatever order they were told: when it was launched.
    Dated(Timestamp),
    /// The owner was told of the end.
    Told,
    /// Its end came and waits for an answer until then.
    Grace(Timestamp),
    /// Extended, with the wish.
    Extended(Option<Span>),
    /// Somebody asked for the end by policy.
    EndAsked,
    /// Somebody asked for its deletion; with a backup or without.
    DeleteAsked(WithBackup),
    /// An operator took the end back.
    EndCancelled,
    /// Its end was begun, as policy or request say.
    EndBegun,
    /// The cloud is asked to destroy it: too late for anything else.
    Destroying,
    /// Soft-deleted.
    SoftDeleted,
    /// Restored.
    Restored,
    /// Exempt from now on.
    Exempted,
    /// Has a lease again, from now on.
    Unexempted,
    /// Is to have a lease again, once it runs.
    Detached,
    /// Another policy rules.
    Policy(Box<Policy>),
    /// Kept at its end: stopped, suspended or only told.
    Kept,
    /// Gone.
    Gone,
}

/// Whether a deletion backs up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithBackup {
    Yes,
    No,
}

/// What follows from the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) state: State,
    pub(super) started: Timestamp,
    pub(super) ends: Timestamp,
    pub(super) grace_until: Option<Timestamp>,
    pub(super) extensions: u32,
    pub(super) asked: Option<WithBackup>,
    /// How its end was begun: a policy that comes later does not change that.
    pub(super) begun: Option<WithBackup>,
    destroying: bool,
    told: bool,
    created: bool,
    attached: bool,
    since: Timestamp,
    left: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    None,
    Running,
    Parked,
    Exempt,
    Kept,
    Gone,
}

/// The model of one VM.
#[derive(Debug, Clone)]
pub(super) struct Model {
    first_policy: Policy,
    facts: Vec<(Timestamp, Fact)>,
    said: Option<Said>,
    launched: Option<Timestamp>,
    soft_deleted: bool,
}

impl Model {
    pub(super) fn new(policy: Policy) -> Self {
        Self { first_policy: policy, facts: Vec::new(), said: None, launched: None, soft_deleted: false }
    }

    pub(super) fn add(&mut self, at: Timestamp, fact: Fact) {
        self.facts.push((at, fact));
    }

    pub(super) fn is_known(&self) -> bool {
        !self.facts.is_empty()
    }

    /// The policy that rules now.
    pub(super) fn policy(&self) -> &Policy {
        let changed = self.facts.iter().rev().find_map(|(_, fact)| match fact {
            Fact::Policy(policy) => Some(&**policy),
            _ => None,
        });
        changed.unwrap_or(&self.first_policy)
    }

    /// The cloud said this of the VM. The newest word counts, whatever came last.
    pub(super) fn told(&mut self, now: Timestamp, facts: &VmFacts, said: Said, creation: Creation) {
        let first = !self.is_known();
        let building = facts.state == VmState::Building && facts.launched_at.is_none();
        if first {
            self.add(now, Fact::Found);
        }
        let seen = match creation {
            Creation::Seen => true,
            Creation::Notification => building,
            Creation::Listing => building && first,
        };
        // What was made from a backup was made by Reeve.
        let seen = seen || (first && facts.metadata.contains_key(REVIVED_FROM_KEY));
        if seen {
            self.add(now, Fact::SeenCreated);
        }
        // The first launch counts, whichever is heard of first: what a notification says is rounded to seconds.
        self.launched = self.launched.into_iter().chain(facts.launched_at).min();
        if self.said.is_none_or(|known| said > known) {
            self.said = Some(said);
            let soft = facts.state == VmState::SoftDeleted;
            if soft != self.soft_deleted {
                self.soft_deleted = soft;
                self.add(now, if soft { Fact::SoftDeleted } else { Fact::Restored });
            }
        }
        if let Some(launched) = self.launched
            && facts.state != VmState::Deleted
            && !self.soft_deleted
            && self.lease().state == State::None
        {
            self.add(now, Fact::Launched(launched));
        }
        let lease = self.lease();
        if creation != Creation::Listing
            && lease.created
            && let Some(launched) = self.launched
            && !is_near(lease.started, launched)
        {
            self.add(now, Fact::Dated(launched));
        }
    }

    /// An operator gave the VM a lease again.
    pub(super) fn unexempt(&mut self, now: Timestamp) {
        let runs = self.launched.is_some() && !self.soft_deleted;
        self.add(now, if runs { Fact::Unexempted } else { Fact::Detached });
    }

    /// What follows from everything that happened.
    pub(super) fn lease(&self) -> Lease {
        let mut policy = &self.first_policy;
        let mut lease = Lease {
            state: State::None,
            started: Timestamp::EPOCH,
            ends: Timestamp::EPOCH,
            grace_until: None,
            extensions: 0,
            asked: None,
            begun: None,
            destroying: false,
            told: false,
            created: false,
            attached: false,
            since: Timestamp::EPOCH,
            left: Span::ZERO,
        };
        for (at, fact) in &self.facts {
            if lease.state == State::Gone {
                break;
            }
            if let Fact::Policy(next) = fact {
                policy = next;
            }
            lease.take(*at, fact, policy);
        }
        lease
    }

    /// Whether the end of the VM may begin now.
    pub(super) fn may_end(&self, now: Timestamp) -> bool {
        let lease = self.lease();
        if lease.asked.is_some() || lease.begun.is_some() {
            return true;
        }
        let grace = self.policy().lease.grace;
        let later = now + NEAR;
        match lease.state {
            State::Running if grace.is_zero() => later >= lease.ends,
            State::Running => lease.grace_until.is_some_and(|until| now >= until && until + NEAR >= lease.ends + grace),
            State::None | State::Parked | State::Exempt | State::Kept | State::Gone => false,
        }
    }

    /// Whether a destruction that may come now has to have a verified backup.
    pub(super) fn needs_backup(&self) -> bool {
        let lease = self.lease();
        match lease.begun.or(lease.asked) {
            Some(WithBackup::No) => false,
            Some(WithBackup::Yes) => true,
            None => self.policy().lease.on_end != OnEnd::Delete,
        }
    }

    /// Whether an extension must be granted, must be refused, or either may happen (`None`): between the end and its
    /// carrying out it depends on what comes first.
    pub(super) fn must_extend(&self, wanted: Option<Span>, now: Timestamp) -> Option<bool> {
        let lease = self.lease();
        let policy = &self.policy().lease;
        let Some(by) = extension(&lease, policy.extension, policy.max_total, wanted, now) else { return Some(false) };
        if by.is_zero() || lease.extensions >= policy.max_extensions {
            return Some(false);
        }
        match lease.state {
            State::None | State::Parked | State::Exempt | State::Gone => Some(false),
            State::Kept => Some(true),
            State::Running if lease.asked.is_some() => Some(false),
            State::Running if now < lease.ends || lease.grace_until.is_some_and(|until| now < until) => Some(true),
            State::Running => None,
        }
    }
}

/// Whether two times may be the same: notifications tell whole seconds, listings milliseconds.
pub(super) fn is_near(one: Timestamp, other: Timestamp) -> bool {
    one.since(other).max(other.since(one)) < NEAR.duration()
}

const NEAR: Span = Span::from_secs(2);

/// By how much an extension lengthens; `None` when the wish is beyond what is allowed.
fn extension(lease: &Lease, most: Span, total: Span, wanted: Option<Span>, now: Timestamp) -> Option<Span> {
    let room = Span::from((lease.started + total).since(lease.ends.max(now)));
    match wanted {
        None => Some(most.min(room)),
        Some(by) => (by <= most && by <= room).then_some(by),
    }
}

/// What a word of the cloud tells of the VM's creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Creation {
    /// It is a listing, or a look.
    Listing,
    /// It is a notification about something else.
    Notification,
    /// It is about the creation, or by whoever made the VM.
    Seen,
}

impl Lease {
    fn first_end(&self, policy: &Policy) -> Timestamp {
        let by_duration = self.started + policy.lease.duration;
        let late = self.since.since(self.started) > policy.lease.min_notice.duration();
        if self.created && !late { by_duration } else { by_duration.max(self.since + policy.lease.min_notice) }
    }

    fn begin(&mut self, policy: &Policy) {
        self.ends = self.first_end(policy);
        self.state = if policy.exempt { State::Exempt } else { State::Running };
        self.extensions = 0;
        self.grace_until = None;
        self.told = false;
    }

    fn take(&mut self, at: Timestamp, fact: &Fact, policy: &Policy) {
        match fact {
            Fact::Found => self.since = at,
            Fact::SeenCreated => self.created = true,
            Fact::Launched(launched) => {
                let from_launch = self.created || policy.lease.adopt == Adopt::Launch;
                self.started = if from_launch { *launched } else { self.since };
                self.begin(policy);
            }
            Fact::Dated(launched) => {
                let untouched = !self.told && !self.attached && self.asked.is_none() && self.extensions == 0;
                if self.state == State::Running && untouched {
                    self.started = *launched;
                    // Whoever was told of a later end has `min_notice` from the correction.
                    self.ends = self.first_end(policy).max(self.ends.min(at + policy.lease.min_notice));
                }
            }
            Fact::Told => self.told = true,
            Fact::Grace(until) => {
                self.told = true;
                self.grace_until = Some(*until);
            }
            Fact::Extended(wanted) => {
                let by = extension(self, policy.lease.extension, policy.lease.max_total, *wanted, at);
                self.ends = self.ends.max(at) + by.unwrap_or_default();
                self.extensions += 1;
                self.state = State::Running;
                self.again();
            }
            Fact::EndAsked => {
                self.asked = Some(if policy.lease.on_end == OnEnd::Delete { WithBackup::No } else { WithBackup::Yes });
            }
            Fact::DeleteAsked(backup) => self.asked = Some(*backup),
            Fact::EndBegun => {
                let by_policy = if policy.lease.on_end == OnEnd::Delete { WithBackup::No } else { WithBackup::Yes };
                self.begun = Some(self.asked.unwrap_or(by_policy));
            }
            Fact::Destroying => self.destroying = true,
            Fact::EndCancelled => {
                if self.state == State::Running {
                    self.ends = self.ends.max(at + policy.lease.min_notice);
                }
                self.again();
            }
            Fact::SoftDeleted if self.state == State::Running && !self.destroying => {
                self.left = Span::from(self.ends.since(at));
                self.state = State::Parked;
                self.again();
            }
            Fact::Restored if self.state == State::Parked => {
                self.ends = at + self.left.max(policy.lease.min_notice);
                self.state = State::Running;
                self.again();
            }
            // A lease that begins only now counts from now.
            Fact::Restored if self.state == State::None => self.since = at,
            Fact::SoftDeleted | Fact::Restored => {}
            Fact::Exempted => self.state = State::Exempt,
            Fact::Unexempted => {
                // What is found and attached in one moment counts from its launch all the same, once that is heard of.
                self.attached |= at != self.since;
                (self.started, self.since) = (at, at);
                self.begin(policy);
            }
            Fact::Detached => self.state = State::None,
            // An end that is being carried out is not moved any more; an operator may cancel it.
            Fact::Policy(_) if at >= self.ends && self.grace_until.is_none_or(|until| at >= until) => {}
            Fact::Policy(_) => {
                let by_duration = self.started + policy.lease.duration;
                if self.state == State::Running && self.asked.is_none() && by_duration > self.ends {
                    self.ends = by_duration;
                    self.again();
                }
            }
            Fact::Kept => {
                self.state = State::Kept;
                self.asked = None;
            }
            Fact::Gone => self.state = State::Gone,
        }
    }

    /// A new end: nobody was told of it yet, and nobody has asked for it.
    fn again(&mut self) {
        self.told = false;
        self.grace_until = None;
        self.asked = None;
        self.begun = None;
    }
}
