use std::sync::Arc;

use tokio::time::timeout;

use super::super::routing::Routing;
use super::super::unsent::Unsent;
use super::super::{Error, INSPECTION_TIMEOUT, readings_of};
use crate::change::{Relation, TableName, Timestamp};
use crate::lookup::Lookups;
use crate::notification::{Audience, Reason, Resync, Terms};
use crate::observe::Observer;
use crate::postgres::catalog::{self, Table};
use crate::postgres::checks::Finding;
use crate::postgres::reading::{self, Access};
use crate::postgres::{self, Connection, Dsn, Tenure};
use crate::route::{Router, Rules};

/// What the session is called in `pg_stat_activity`: it is no `run`.
const SESSION_NAME: &str = "rowcast replay";

const WHO_AND_WHEN: &str = "SELECT current_user::text, \
                            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// An ordinary session, and the tables that it sees.
pub struct Catalog {
    pub connection: Connection,
    pub tables: Vec<Table>,
    /// Who is logged in.
    pub role: Box<str>,
    /// By the server's clock.
    pub now: Timestamp,
    dsn: Dsn,
}

/// A name on the command line that no rule has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no rule is named {name:?}; there are {}", rules.join(", "))]
pub struct UnknownRule {
    pub name: String,
    pub rules: Vec<String>,
}

impl Catalog {
    /// # Errors
    /// If the database cannot be reached, or does not tell.
    pub async fn read(dsn: &Dsn, tenure: Tenure) -> Result<Catalog, Error> {
        let connected = postgres::connect_as(dsn, SESSION_NAME, tenure).await;
        let connection = connected.map_err(Error::Connect)?;
        let client = &connection.client;
        let reading = connection.read(async {
            let row = client.query_typed_one(WHO_AND_WHEN, &[]).await?;
            let role = row.try_get::<_, String>(0)?.into_boxed_str();
            let now = Timestamp::from_unix_micros(row.try_get(1)?);
            Ok((catalog::tables(client).await?, role, now))
        });
        let read = timeout(INSPECTION_TIMEOUT, reading).await;
        let (tables, role, now) =
            read.map_err(|_| Error::InspectTimeout)?.map_err(Error::Inspect)?;
        let dsn = dsn.clone().only(&connection.host);
        Ok(Catalog { connection, tables, role, now, dsn })
    }

    /// As rules know them. Of rows as they stand no identity is asked.
    pub fn relations(&self) -> Vec<Relation> {
        let relations = self.tables.iter().map(|table| table.relation.clone());
        relations.map(Relation::with_whole_old_rows).collect()
    }

    pub fn table(&self, name: &TableName) -> Option<&Table> {
        self.tables.iter().find(|table| table.relation.table == *name)
    }

    /// One for each table of each of these rules.
    pub fn resyncs(&self, rules: &Arc<Rules>, named: &[Arc<str>]) -> Vec<Resync> {
        let router = self.router(rules);
        let at = Timestamp::now();
        let terms = router.terms().filter(|terms| named.contains(&terms.rule));
        let resync = |terms: &Arc<Terms>| Resync {
            terms: terms.clone(),
            reason: Reason::Replay,
            count: None,
            audience: Audience::All,
            position: None,
            at,
        };
        terms.map(resync).collect()
    }

    /// What keeps the rules from looking up what they need.
    ///
    /// # Errors
    /// If the database does not tell.
    pub async fn findings(&self, rules: &Rules) -> Result<Vec<Finding>, Error> {
        let readings = readings_of(rules.lookups(), &self.relations());
        let client = &self.connection.client;
        let access = self.connection.read(Access::read(client, &self.role, &readings)).await;
        let access = access.map_err(Error::Inspect)?;
        Ok(reading::check(&self.tables, None, &readings, &access))
    }

    /// By which changes of the tables go through the rules.
    pub fn routing(&self, rules: &Arc<Rules>, tenure: Tenure) -> Routing {
        let relations = self.relations();
        let lookups = Lookups::new(self.dsn.clone(), tenure, rules.lookups(), &relations);
        Routing {
            router: self.router(rules),
            visible: None,
            lookups,
            unsent: Unsent::default(),
            // Nobody asks a command how it is.
            observer: Observer::default(),
            recorder: None,
        }
    }

    fn router(&self, rules: &Arc<Rules>) -> Router {
        let mut router = Router::new(rules.clone());
        router.learn(&self.relations());
        router
    }
}

/// By which what is recorded goes through the rules. `relations` are those of the
/// database that rows are looked up in; the recording describes its own.
pub fn routing_of_recording(
    dsn: Dsn,
    tenure: Tenure,
    rules: &Arc<Rules>,
    relations: &[Relation],
) -> Routing {
    Routing {
        router: Router::new(rules.clone()),
        visible: None,
        lookups: Lookups::new(dsn, tenure, rules.lookups(), relations),
        unsent: Unsent::default(),
        observer: Observer::default(),
        recorder: None,
    }
}

/// The rules that these names stand for; all, if there is no name.
///
/// # Errors
/// If one stands for none.
pub fn named(rules: &Rules, names: &[String]) -> Result<Vec<Arc<str>>, UnknownRule> {
    if names.is_empty() {
        return Ok(rules.names().cloned().collect());
    }
    let mut named = Vec::new();
    for name in names {
        let of_name = rules.named(name);
        if of_name.is_empty() {
            let rules = rules.names().map(|name| name.to_string()).collect();
            return Err(UnknownRule { name: name.clone(), rules });
        }
        named.extend(of_name);
    }
    Ok(named)
}
