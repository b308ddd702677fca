//! What a consumer holds: deliveries that wait for the application, and how many it has in its hands.
//!
//! A *term* is the life of one AMQP channel. Deliveries of an earlier term belong to nobody here: the broker delivers
//! them again.
//!
//! Poison is found here rather than by the broker's delivery limit, which drops everything that the channel holds. When
//! a process dies, every delivery that it held counts one more, so a high count alone does not convict: from half the
//! limit on a message is offered alone, and of those over the limit only the first of a term is given up. A message
//! that this very consumer has dropped too often is convicted by that alone.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

/// A delivery with its count.
#[derive(Debug, Clone)]
pub(crate) struct Offer<D> {
    pub(crate) delivery: D,
    /// Its place in the order of the term.
    pub(crate) tag: u64,
    term: u64,
    /// Deliveries before, by the broker's count.
    before: u32,
    /// Offers before to this consumer.
    here: u32,
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Next<D> {
    /// Hand it to the application.
    Offer(Offer<D>),
    /// Give it up as poisonous.
    Poison(Offer<D>),
    /// Wait for news.
    Wait,
    /// Nothing will ever come.
    Closed,
}

/// The deliveries of one consumer.
#[derive(Debug)]
pub(crate) struct Inbox<D> {
    state: Mutex<State<D>>,
    news: Notify,
    poison_limit: u32,
}

#[derive(Debug)]
struct State<D> {
    term: u64,
    waiting: VecDeque<Offer<D>>,
    in_hands: usize,
    /// The application holds a suspect, which is handled alone.
    alone: bool,
    /// A message was given up by the broker's count in this term.
    convicted: bool,
    closed: bool,
}

impl<D> Offer<D> {
    /// How many times it was delivered before.
    pub(crate) fn redelivered(&self) -> u32 {
        self.before.saturating_add(self.here)
    }
}

impl<D> Inbox<D> {
    pub(crate) fn new(poison_limit: u32) -> Self {
        let waiting = VecDeque::new();
        let state = State { term: 0, waiting, in_hands: 0, alone: false, convicted: false, closed: false };
        Self { state: Mutex::new(state), news: Notify::new(), poison_limit }
    }

    /// Begins a term: what was here belongs to the broker again.
    pub(crate) fn begin_term(&self) -> u64 {
        let mut state = self.state();
        let (term, closed) = (state.term + 1, state.closed);
        *state = State { term, waiting: VecDeque::new(), in_hands: 0, alone: false, convicted: false, closed };
        term
    }

    /// Takes a delivery of this term in.
    pub(crate) fn push(&self, term: u64, tag: u64, before: u32, delivery: D) {
        let mut state = self.state();
        if state.term == term && !state.closed {
            state.waiting.push_back(Offer { delivery, tag, term, before, here: 0 });
            self.news.notify_one();
        }
    }

    /// The next step.
    pub(crate) fn take(&self) -> Next<D> {
        let mut state = self.state();
        if state.closed {
            return Next::Closed;
        }
        let Some(front) = state.waiting.front() else { return Next::Wait };
        let over = front.redelivered() > self.poison_limit;
        let certain = front.here > self.poison_limit;
        let suspect = front.redelivered() > self.poison_limit / 2;
        let convict = certain || (over && !state.convicted);
        if !convict && (state.alone || (suspect && state.in_hands > 0)) {
            return Next::Wait;
        }
        let offer = state.waiting.pop_front().expect("the front was looked at under the same lock");
        state.in_hands += 1;
        if convict {
            state.convicted = true;
            return Next::Poison(offer);
        }
        state.alone = suspect;
        Next::Offer(offer)
    }

    /// Returns when [`Inbox::take`] may give something else. May return early.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// The application is done with it.
    pub(crate) fn settled(&self, offer: &Offer<D>) {
        let mut state = self.state();
        if state.term == offer.term {
            state.release();
            self.news.notify_one();
        }
    }

    /// The application did not settle it: it is offered again, in its old place.
    pub(crate) fn give_back(&self, mut offer: Offer<D>) {
        let mut state = self.state();
        if state.term != offer.term || state.closed {
            return;
        }
        state.release();
        offer.here = offer.here.saturating_add(1);
        let place = state.waiting.partition_point(|waiting| waiting.tag < offer.tag);
        state.waiting.insert(place, offer);
        self.news.notify_one();
    }

    /// Nothing is offered any more.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
        self.news.notify_one();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<D> State<D> {
    fn release(&mut self) {
        self.in_hands = self.in_hands.saturating_sub(1);
        self.alone = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(inbox: &Inbox<char>) -> Offer<char> {
        match inbox.take() {
            Next::Offer(offer) => offer,
            other => panic!("expected an offer, got {other:?}"),
        }
    }

    fn waits(inbox: &Inbox<char>) -> bool {
        matches!(inbox.take(), Next::Wait)
    }

    fn inbox(counts: &[(char, u32)]) -> Inbox<char> {
        let inbox = Inbox::new(4);
        let term = inbox.begin_term();
        for (tag, (name, before)) in counts.iter().enumerate() {
            inbox.push(term, tag as u64, *before, *name);
        }
        inbox
    }

    #[test]
    fn what_is_given_back_comes_again_in_its_old_place_with_one_more() {
        let inbox = inbox(&[('a', 0), ('b', 0), ('c', 0)]);
        let (a, b) = (offered(&inbox), offered(&inbox));
        inbox.give_back(b);
        inbox.give_back(a);
        for (name, redelivered) in [('a', 1), ('b', 1), ('c', 0)] {
            let offer = offered(&inbox);
            assert_eq!((offer.delivery, offer.redelivered()), (name, redelivered));
        }
        assert!(waits(&inbox));
    }

    #[test]
    fn what_belongs_to_an_earlier_term_is_forgotten() {
        let inbox = inbox(&[('a', 0), ('b', 0)]);
        let a = offered(&inbox);
        let term = inbox.begin_term();
        inbox.push(term - 1, 9, 0, 'z');
        inbox.give_back(a);
        assert!(waits(&inbox));
        inbox.push(term, 1, 1, 'a');
        assert_eq!(offered(&inbox).redelivered(), 1);
    }

    #[test]
    fn a_message_that_the_application_keeps_dropping_is_poison() {
        let inbox = inbox(&[('a', 0)]);
        for redelivered in 0..=4 {
            let offer = offered(&inbox);
            assert_eq!(offer.redelivered(), redelivered);
            inbox.give_back(offer);
        }
        assert!(matches!(inbox.take(), Next::Poison(offer) if offer.redelivered() == 5));
        assert!(waits(&inbox));
    }

    #[test]
    fn a_suspect_is_handled_alone() {
        let inbox = inbox(&[('a', 0), ('s', 3), ('b', 0)]);
        let a = offered(&inbox);
        assert!(waits(&inbox), "the suspect waits until nothing is in the application's hands");
        inbox.settled(&a);
        let suspect = offered(&inbox);
        assert_eq!(suspect.delivery, 's');
        assert!(waits(&inbox), "and the others wait for the suspect");
        inbox.settled(&suspect);
        assert_eq!(offered(&inbox).delivery, 'b');
    }

    #[test]
    fn of_several_over_the_limit_only_the_first_is_given_up_in_a_term() {
        let inbox = inbox(&[('p', 9), ('i', 9), ('j', 9)]);
        let Next::Poison(poison) = inbox.take() else { panic!("the first is convicted") };
        assert_eq!(poison.delivery, 'p');
        assert!(waits(&inbox), "the others are offered alone");
        inbox.settled(&poison);
        let innocent = offered(&inbox);
        assert_eq!(innocent.delivery, 'i');
        assert!(waits(&inbox));
        inbox.settled(&innocent);
        assert_eq!(offered(&inbox).delivery, 'j');
    }

    #[test]
    fn a_closed_inbox_offers_nothing() {
        let inbox = inbox(&[('a', 0), ('b', 0)]);
        let a = offered(&inbox);
        inbox.close();
        inbox.give_back(a);
        assert!(matches!(inbox.take(), Next::Closed));
    }
}
