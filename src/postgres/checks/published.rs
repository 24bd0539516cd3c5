//! Whether the publication sends what the rules need, and nothing that hurts.

use crate::change::ReplicaIdentity;

use super::{Expected, Finding, Kind};
use crate::postgres::catalog::{Table, quote_table};
use crate::postgres::need::{Need, Wanted, holders, wanted};
use crate::postgres::publication::{Age, Publication, PublishedTable};
use crate::postgres::server::Server;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{PublicationName, quote_identifier};

pub(super) fn existing_publication(
    publication: &Publication,
    snapshot: &Snapshot,
    expected: &Expected<'_>,
) -> Vec<Finding> {
    let name = expected.publication;
    let mut findings = Vec::new();
    if publication.age == Age::PerhapsNewer {
        findings.push(perhaps_newer(expected));
    }
    let missing: Vec<&str> = [
        (publication.insert, "insert"),
        (publication.update, "update"),
        (publication.delete, "delete"),
        (publication.truncate, "truncate"),
    ]
    .into_iter()
    .filter_map(|(is_published, operation)| (!is_published).then_some(operation))
    .collect();
    if !missing.is_empty() {
        findings.push(Finding::error(
            Kind::PublicationOperations,
            format!(
                "publication {name} does not send {}, so that is not announced",
                missing.join(", ")
            ),
            format!(
                "rowcast setup, or: ALTER PUBLICATION {} SET (publish = 'insert, update, delete, \
                 truncate');",
                quote_identifier(name.as_str())
            ),
        ));
    }
    let wanted = wanted(&snapshot.tables, expected.needs);
    for one in &wanted {
        findings.extend(one_table(*one, publication, snapshot, expected));
    }
    findings.extend(not_wanted(publication, snapshot, &wanted, expected));
    findings
}

/// Rules that take a partition, but not the partitioned table that another rule
/// takes and under whose name its changes come therefore.
pub(super) fn partitions_of_published(tables: &[Table], needs: &[Need]) -> Vec<Finding> {
    let table_of = |oid| tables.iter().find(|table| table.relation.oid == oid);
    let mut findings = Vec::new();
    for need in needs {
        let Some(partition) = table_of(need.oid) else { continue };
        let Some(root) = partition.role.root() else { continue };
        let Some(root_need) = needs.iter().find(|need| need.oid == root) else { continue };
        let Some(root) = table_of(root) else { continue };
        let (partition, root) = (&partition.relation.table, &root.relation.table);
        for rule in need.rules.iter().filter(|rule| !root_need.rules.contains(rule)) {
            findings.push(Finding::error(
                Kind::PartitionOfPublished,
                format!(
                    "rule {rule:?} never announces changes of {partition}: they carry the name of \
                     the partitioned table {root}, which rule {:?} takes",
                    root_need.rules.join(", ")
                ),
                format!("write table = \"{root}\" in rule {rule:?}, with where to narrow it down"),
            ));
        }
    }
    findings
}

fn perhaps_newer(expected: &Expected<'_>) -> Finding {
    let Expected { slot, publication, .. } = expected;
    Finding::warning(
        Kind::PublicationPerhapsNewer,
        format!(
            "publication {publication} may be newer than slot {slot}. If it is, rowcast cannot \
             read the changes from before it: it passes over them and tells all pages to fetch \
             again, or pauses with on_slot_loss = \"stop\". If it was only altered, all is well, \
             and this warning goes away as rowcast catches up"
        ),
        "only if rowcast does pause: rowcast teardown && rowcast setup",
    )
}

fn one_table(
    wanted: Wanted<'_>,
    publication: &Publication,
    snapshot: &Snapshot,
    expected: &Expected<'_>,
) -> Vec<Finding> {
    let table = wanted.table;
    let relation = &table.relation;
    let name = expected.publication;
    let mut findings = Vec::new();
    if !table.logged {
        findings.push(Finding::error(
            Kind::TableUnlogged,
            format!("{} is UNLOGGED: its changes are not in the log", relation.table),
            format!("ALTER TABLE {} SET LOGGED;", quote_table(&relation.table)),
        ));
        return findings;
    }
    let Some(published) = publication.published(&relation.table) else {
        let by_partition =
            !publication.via_root && publication.tables.iter().any(|t| t.oid == relation.oid);
        findings.push(if by_partition {
            Finding::error(
                Kind::PublicationByPartition,
                format!(
                    "publication {name} sends changes of the partitioned table {} under the names \
                     of its partitions: rules on it see none",
                    relation.table
                ),
                format!(
                    "rowcast setup, or: ALTER PUBLICATION {} SET (publish_via_partition_root = \
                     true);",
                    quote_identifier(name.as_str())
                ),
            )
        } else {
            Finding::error(
                Kind::TableNotPublished,
                format!(
                    "publication {name} does not hold {}: its changes are not announced, and those \
                     committed meanwhile never will be",
                    relation.table
                ),
                format!(
                    "rowcast setup, or: ALTER PUBLICATION {} ADD TABLE ONLY {};",
                    quote_identifier(name.as_str()),
                    quote_table(&relation.table)
                ),
            )
        });
        return findings;
    };
    findings.extend(narrowed(published, wanted, name));
    let holders = holders(&snapshot.tables, table);
    let is_full = |table: &Table| table.relation.identity == ReplicaIdentity::Full;
    let computed =
        table.generated.r#virtual || table.generated.stored && !publication.generated_columns;
    if snapshot.server.version_num >= Server::PG18
        && computed
        && (is_full(table) || holders.iter().any(|holder| is_full(holder)))
    {
        findings.push(Finding::error(
            Kind::GeneratedColumns,
            format!(
                "{} has generated columns that are not published, and REPLICA IDENTITY FULL: the \
                 application's UPDATE and DELETE on it fail",
                relation.table
            ),
            "rowcast setup (for stored ones), or another replica identity",
        ));
    }
    findings
}

fn narrowed(
    published: &PublishedTable,
    wanted: Wanted<'_>,
    publication: &PublicationName,
) -> Vec<Finding> {
    let Wanted { table, need } = wanted;
    let name = &table.relation.table;
    let mut findings = Vec::new();
    if let Some(filter) = &published.row_filter {
        findings.push(Finding::warning(
            Kind::RowFilter,
            format!(
                "publication {publication} sends only rows of {name} with {filter}: changes of \
                 others are not announced, and one that leaves this set is announced as deleted"
            ),
            "rowcast setup takes the filter away; a rule's own is its option where",
        ));
    }
    if let Some(columns) = &published.columns {
        let hidden: Vec<&str> = need
            .columns
            .iter()
            .chain(need.identity.iter().map(|need| &need.column))
            .map(|column| &*table.relation.columns[*column].name)
            .filter(|column| columns.iter().all(|published| **published != **column))
            .collect();
        if !hidden.is_empty() {
            findings.push(Finding::error(
                Kind::ColumnList,
                format!(
                    "publication {publication} does not send columns of {name} that rules name: {}",
                    hidden.join(", ")
                ),
                "rowcast setup",
            ));
        }
    }
    findings
}

/// Tables in the publication that no rule takes. They cost log and time, and
/// where they lack an identity they cost the application its writes.
fn not_wanted(
    publication: &Publication,
    snapshot: &Snapshot,
    wanted: &[Wanted<'_>],
    expected: &Expected<'_>,
) -> Vec<Finding> {
    let name = expected.publication;
    let extra = publication.tables.iter().filter(|table| {
        table.published && !wanted.iter().any(|wanted| wanted.table.relation.oid == table.oid)
    });
    let mut findings = Vec::new();
    let mut names = Vec::new();
    for published in extra {
        names.push(published.table.to_string());
        let table = snapshot.tables.iter().find(|table| table.relation.oid == published.oid);
        let unidentified = table.is_some_and(|table| {
            holders(&snapshot.tables, table).iter().any(|holder| !holder.has_identity())
        });
        if unidentified && (publication.update || publication.delete) {
            findings.push(Finding::error(
                Kind::Identity,
                format!(
                    "publication {name} holds {}, which no rule takes and which has no usable \
                     replica identity: the application's UPDATE and DELETE on it fail",
                    published.table
                ),
                "rowcast setup takes it out; FOR ALL TABLES must be made anew",
            ));
        }
    }
    if !names.is_empty() {
        names.truncate(10);
        findings.push(Finding::warning(
            Kind::TableNotWanted,
            format!("publication {name} holds tables that no rule takes: {}", names.join(", ")),
            "rowcast setup",
        ));
    }
    findings
}
