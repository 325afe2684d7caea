//! Connections of protocols that carry one request at a time: as many as there are requests in flight, used again and again.

use std::sync::{Mutex, PoisonError};

/// Idle connections to several endpoints, which are used in turn.
pub struct Pool<C> {
    endpoints: Vec<Endpoint<C>>,
    next: std::sync::atomic::AtomicUsize,
}

struct Endpoint<C> {
    address: String,
    idle: Mutex<Vec<C>>,
}

/// A place in the pool.
#[derive(Clone, Copy)]
pub struct Slot(usize);

impl<C> Pool<C> {
    /// Without connections. There must be an endpoint.
    pub fn new(endpoints: &[String]) -> Self {
        assert!(!endpoints.is_empty(), "a pool of connections to nobody");
        let endpoint = |address: &String| Endpoint { address: address.clone(), idle: Mutex::default() };
        Self { endpoints: endpoints.iter().map(endpoint).collect(), next: Default::default() }
    }

    /// The next endpoint, and an idle connection to it if there is one.
    pub fn take(&self) -> (Slot, Option<C>) {
        let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.endpoints.len();
        let idle = self.endpoints[turn].idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        (Slot(turn), idle)
    }

    /// host:port of all places.
    pub fn addresses(&self) -> Vec<&str> {
        self.endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect()
    }

    /// host:port of a place.
    pub fn address(&self, slot: Slot) -> &str {
        &self.endpoints[slot.0].address
    }

    /// The connection is idle again. One on which something failed is not given back.
    pub fn give_back(&self, slot: Slot, connection: C) {
        self.endpoints[slot.0].idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_used_in_turn_and_connections_again() {
        let pool = Pool::new(&["a:1".to_owned(), "b:2".to_owned()]);
        let (first, none) = pool.take();
        assert_eq!((pool.address(first), none), ("a:1", None));
        pool.give_back(first, 7);
        assert_eq!(pool.address(pool.take().0), "b:2");
        assert_eq!(pool.take().1, Some(7));
        assert_eq!(pool.take().1, None);
        assert_eq!(pool.take().1, None, "it was not given back");
    }
}
