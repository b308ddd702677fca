//! What an idle actor has not, in a box that is there only while there is something in it.

use std::ops::{Deref, DerefMut};

/// Something that is mostly blank, and takes a pointer then.
pub(super) struct Seldom<T>(Option<Box<T>>);

/// What may be blank.
pub(super) trait Blank: Default + 'static {
    /// One that is blank.
    const BLANK: &'static Self;

    /// Whether it is.
    fn is_blank(&self) -> bool;
}

impl<T: Blank> Seldom<T> {
    /// It, unless it takes no room; to take something out of it.
    pub(super) fn any(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Gives the room back, if it is blank.
    pub(super) fn rest(&mut self) {
        if self.0.as_ref().is_some_and(|held| held.is_blank()) {
            self.0 = None;
        }
    }
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Blank> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::BLANK)
    }
}

impl<T: Blank> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Blank for Vec<u8> {
        const BLANK: &'static Self = &Self::new();

        fn is_blank(&self) -> bool {
            self.is_empty()
        }
    }

    #[test]
    fn it_takes_room_only_while_there_is_something_in_it() {
        let mut seldom = Seldom::<Vec<u8>>::default();
        assert!(seldom.is_empty() && seldom.any().is_none());
        seldom.push(1);
        seldom.rest();
        assert_eq!(seldom.any().and_then(Vec::pop), Some(1));
        seldom.rest();
        assert!(seldom.0.is_none());
    }
}
