//! I18: a create is refused for a value that somebody wrote, and is not made where its coordinator knows one.
//!
//! More is not promised. A create looks at what one coordinator knows: so two may be made at the same time, which are siblings then, and
//! one may be refused for a value that is deleted elsewhere already. That neither of two hides the other is I1, since a create covers
//! nothing.

use std::collections::BTreeSet;

use dynamo_core::id::NodeId;
use dynamo_core::name::Name;
use dynamo_core::version::Dot;

use crate::ledger::{Fate, Ledger, Verdict};
use crate::witness::WriteId;

/// A create that is seen for the first time, in a state with another value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MadeBeside {
    /// Of what.
    pub name: Name,
    /// Its version.
    pub dot: Dot,
    /// The create.
    pub create: WriteId,
    /// A value that is live beside it.
    pub value: WriteId,
}

/// Whether `node` made a create beside a value that it knew. In whose state a version is seen first, who made it has shown what it went
/// on from; anybody else may have joined that to what it had.
pub fn check_made(node: NodeId, made: &[MadeBeside]) -> Verdict {
    match made.iter().find(|made| made.dot.actor.node == node) {
        None => Ok(()),
        Some(MadeBeside { dot, create, value, .. }) => {
            Err(("I18 creates", format!("{create:?} was created as {dot:?} where {value:?} was known, and had to be refused")))
        }
    }
}

/// What clients were told of their creates.
#[derive(Clone, Debug, Default)]
pub struct Creates {
    begun: BTreeSet<WriteId>,
    /// Those that were refused, each with the writes that were begun until then.
    refused: Vec<(WriteId, usize)>,
}

impl Creates {
    /// A create is about to be sent.
    pub fn begin(&mut self, id: WriteId) {
        self.begun.insert(id);
    }

    /// A client was told that there is a value already.
    pub fn refused(&mut self, id: WriteId, ledger: &Ledger) {
        self.refused.push((id, ledger.begun()));
    }

    /// Whether a value may have been there for each that was refused, by what is known of all writes in the end. It may be its own: of an
    /// earlier attempt.
    pub fn judge(&self, ledger: &Ledger) -> Verdict {
        for (id, begun) in &self.refused {
            let Some(refused) = ledger.get(*id) else { continue };
            let may_be_there =
                |(other, fate, delete): (WriteId, Fate, bool)| other.0 as usize <= *begun && !delete && fate != Fate::Failed;
            let mut writes = ledger.of_name(&refused.name).map(|(other, write)| (other, write.fate, write.delete));
            if !self.begun.contains(id) {
                return Err(("I18 creates", format!("{id:?} of {:?} is no create, and was refused as one", refused.name)));
            }
            if !writes.any(may_be_there) {
                return Err((
                    "I18 creates",
                    format!("{id:?} of {:?} was refused for a value, and nobody wrote one", refused.name),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::Witness;
    use dynamo_core::id::Incarnation;
    use dynamo_core::name::Name;
    use dynamo_core::version::{Actor, CausalContext, Object, Value};

    /// The writes of one key in their order, each a delete or not; the one with the number `refused`, a create or not, is told `Exists`.
    fn verdict(writes: &[(bool, Fate)], create: bool, refused: usize) -> Option<&'static str> {
        let (mut ledger, mut creates) = (Ledger::default(), Creates::default());
        for (at, (delete, fate)) in writes.iter().enumerate() {
            let id = ledger.begin(Name::new("b", "k"), *delete, BTreeSet::new(), 1);
            ledger.settle(id, *fate);
            if at + 1 == refused {
                if create {
                    creates.begin(id);
                }
                creates.refused(id, &ledger);
            }
        }
        creates.judge(&ledger).err().map(|(invariant, _)| invariant)
    }

    #[test]
    fn a_create_is_refused_for_a_value_that_may_have_been_there() {
        use Fate::{Failed, Ok, Pending, Unknown};
        const I18: Option<&str> = Some("I18 creates");
        let value = |fate| (false, fate);
        assert_eq!(verdict(&[value(Failed)], true, 1), I18, "nobody wrote anything");
        for (fate, expected) in [(Ok, None), (Unknown, None), (Pending, None), (Failed, I18)] {
            assert_eq!(verdict(&[value(fate), value(Failed)], true, 2), expected, "{fate:?}");
            assert_eq!(verdict(&[(true, fate), value(Failed)], true, 2), I18, "a tombstone is no value: {fate:?}");
            assert_eq!(verdict(&[value(Failed), value(fate)], true, 1), I18, "it came later: {fate:?}");
        }
        assert_eq!(verdict(&[value(Unknown)], true, 1), None, "an earlier attempt of its own");
        assert_eq!(verdict(&[value(Ok), value(Failed)], false, 2), I18, "it is a put");
    }

    fn version(node: u8, object: &Object, write: WriteId) -> (Object, Dot) {
        let dot = Dot { actor: Actor { node: NodeId([node; 16]), incarnation: Incarnation(1) }, counter: 1 };
        let mut object = object.clone();
        object.update(&CausalContext::default(), dot, Value { data: Some(write.value()), written_ms: 0 });
        (object, dot)
    }

    #[test]
    fn a_create_beside_a_value_is_found_where_it_was_made_and_nowhere_else() {
        let (name, put, create) = (Name::new("b", "k"), WriteId(1), WriteId(2));
        let (there, _) = version(1, &Object::default(), put);
        let (beside, dot) = version(2, &there, create);
        for (states, found) in [(vec![&there, &beside], true), (vec![&there], false)] {
            let mut witness = Witness::default();
            witness.creates(create);
            states.into_iter().for_each(|state| drop(witness.saw(&name, state)));
            let made = witness.take_made();
            assert_eq!(made, if found { vec![MadeBeside { name: name.clone(), dot, create, value: put }] } else { vec![] });
            assert_eq!(check_made(NodeId([2; 16]), &made).is_err(), found);
            assert_eq!(check_made(NodeId([3; 16]), &made), Ok(()), "a replica that had the value");
        }
        let mut witness = Witness::default();
        witness.creates(create);
        let (alone, _) = version(2, &Object::default(), create);
        witness.saw(&name, &alone);
        witness.saw(&name, &beside);
        assert_eq!(witness.take_made(), [], "it was made where nothing was known");
        witness.saw(&name, &there);
        assert_eq!(witness.take_made(), [], "a put beside a value");

        let (again, _) = version(3, &Object::default(), put);
        let mut witness = Witness::default();
        witness.creates(create);
        [&there, &again, &beside].into_iter().for_each(|state| drop(witness.saw(&name, state)));
        assert_eq!(witness.take_made(), [], "the value was made twice, and may have been hidden");
    }
}
