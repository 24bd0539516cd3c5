use tokio_postgres::{Client, Error};

use super::inspection::{needs_of, readings_of};
use crate::change::Relation;
use crate::postgres::checks::{self, Expected, Finding};
use crate::postgres::reading::{self, Access};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{Capture, Config};
use crate::route::{Problem, Rules};

/// The database as it is now, held against the rules: all that is wrong, whomever
/// it concerns.
pub struct Judgement {
    pub snapshot: Snapshot,
    /// The tables as rules know them.
    pub relations: Vec<Relation>,
    pub problems: Vec<Problem>,
    pub findings: Vec<Finding>,
}

/// What several instances need.
#[derive(Clone, Copy, Debug, Default)]
pub struct Instances {
    /// Whether one takes the slot from another that is silent.
    pub takeover: bool,
    /// Whether standbys are to have the slot too.
    pub failover: bool,
}

impl Judgement {
    pub async fn read(
        client: &Client,
        database: &Config,
        rules: &Rules,
        instances: Instances,
    ) -> Result<Judgement, Error> {
        let snapshot = Snapshot::gather(client, &database.slot, &database.publication).await?;
        let relations = match database.capture {
            Capture::Wal => snapshot.relations(),
            Capture::Triggers => {
                snapshot.relations().into_iter().map(Relation::with_whole_old_rows).collect()
            }
        };
        let problems = rules.check(&relations);
        let needs = needs_of(&rules.tables(&relations));
        let Instances { takeover, failover } = instances;
        let expected = Expected { takeover, failover, ..Expected::of(database, &needs) };
        let mut findings = checks::check(&snapshot, &expected);
        let readings = readings_of(rules.lookups(), &relations);
        let access = Access::read(client, &snapshot.server.role, &readings).await?;
        // What decides which changes come: a filter of a publication, or nothing.
        let publication = match database.capture {
            Capture::Wal => snapshot.publication.as_ref(),
            Capture::Triggers => None,
        };
        findings.extend(reading::check(&snapshot.tables, publication, &readings, &access));
        Ok(Judgement { snapshot, relations, problems, findings })
    }
}
