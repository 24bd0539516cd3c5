//! All that setup and the checks look at, read at once.

use tokio_postgres::{Client, Error};

use super::catalog::{self, Table};
use super::functions::{self, Functions};
use super::outbox::{self, Outbox, Schema};
use super::publication::{self, Publication};
use super::server::Server;
use super::slot::{self, Slot};
use super::{PublicationName, SlotName};
use crate::change::Relation;

/// The database as it is now, for rowcast's purposes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub server: Server,
    pub slot: Option<Slot>,
    pub publication: Option<Publication>,
    pub tables: Vec<Table>,
    pub functions: Functions,
    /// `None` where nothing was ever made for capture by triggers.
    pub outbox: Option<Outbox>,
    pub schema: Option<Schema>,
}

impl Snapshot {
    /// Some queries, sent together.
    pub async fn gather(
        client: &Client,
        slot: &SlotName,
        publication: &PublicationName,
    ) -> Result<Snapshot, Error> {
        // It would make every future that holds it large.
        Box::pin(Snapshot::read(client, slot, publication)).await
    }

    async fn read(
        client: &Client,
        slot: &SlotName,
        publication: &PublicationName,
    ) -> Result<Snapshot, Error> {
        let (server, slot, publication, tables, functions, outbox, schema) = tokio::try_join!(
            Server::read(client),
            slot::read(client, slot),
            publication::read(client, publication, slot),
            catalog::tables(client),
            functions::read(client),
            outbox::read(client),
            Schema::read(client),
        )?;
        Ok(Snapshot { server, slot, publication, tables, functions, outbox, schema })
    }

    /// The tables as rules know them.
    pub fn relations(&self) -> Vec<Relation> {
        self.tables.iter().map(|table| table.relation.clone()).collect()
    }
}
