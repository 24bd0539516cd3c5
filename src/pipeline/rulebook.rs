//! The rules by which changes are told, and other rules that take their place.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Error, Options, inspect};
use crate::postgres::{APPLICATION_NAME, connect_as};
use crate::route::Rules;

/// The rules as they are wanted now. A session goes by those that it began with:
/// once others are wanted it ends in order, and the next one goes by them.
#[derive(Clone, Debug)]
pub struct Rulebook(watch::Receiver<Arc<Rules>>);

impl Rulebook {
    /// With what is sent, which [`check`] has passed, other rules take the place of
    /// these.
    pub fn new(rules: Rules) -> (watch::Sender<Arc<Rules>>, Rulebook) {
        let (rules_tx, rules_rx) = watch::channel(Arc::new(rules));
        (rules_tx, Rulebook(rules_rx))
    }

    pub(super) fn latest(&mut self) -> Arc<Rules> {
        self.0.borrow_and_update().clone()
    }

    /// Waits until others are wanted than those that were the [`latest`](Self::latest).
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Rules that stay.
impl From<Rules> for Rulebook {
    fn from(rules: Rules) -> Rulebook {
        Rulebook::new(rules).1
    }
}

/// Whether the database, as it is now, is as `rules` need it. Asked for over a
/// connection of its own: what streams meanwhile is not touched.
///
/// # Errors
/// [`Error::Refused`] says what is missing; with any other error nothing is known.
pub async fn check(options: &Options, rules: &Rules) -> Result<(), Error> {
    let (dsn, tenure) = (options.database.dsn(), options.database.tenure());
    let connection = connect_as(&dsn, APPLICATION_NAME, tenure).await.map_err(Error::Connect)?;
    match inspect(&connection, options, rules).await?.accept() {
        // That is no matter of the rules: sessions see to it.
        Err(refused) if refused.is_slot_gone() => Ok(()),
        accepted => Ok(accepted?),
    }
}
