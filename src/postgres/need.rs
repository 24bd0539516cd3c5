//! What the rules want of the database, in its own words.

use super::catalog::Table;

/// What the rules want of one table. Made from the rules by those who know
/// both; `setup` and the checks see only this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// OID of the table.
    pub oid: u32,
    /// The names of the rules that take it.
    pub rules: Vec<String>,
    /// Columns that a rule names, as indexes into the relation's.
    pub columns: Vec<usize>,
    /// Columns that old rows must carry.
    pub identity: Vec<IdentityNeed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityNeed {
    /// Index into the relation's columns.
    pub column: usize,
    /// The rule that uses it.
    pub rule: String,
}

/// A table with what is wanted of it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub table: &'a Table,
    pub need: &'a Need,
}

/// The tables to publish: those that rules take, without partitions of a table
/// that rules take too, since their changes carry its name.
pub fn wanted<'a>(tables: &'a [Table], needs: &'a [Need]) -> Vec<Wanted<'a>> {
    let is_needed = |oid| needs.iter().any(|need| need.oid == oid);
    needs
        .iter()
        .filter_map(|need| {
            let table = tables.iter().find(|table| table.relation.oid == need.oid)?;
            Some(Wanted { table, need })
        })
        .filter(|wanted| !wanted.table.role.root().is_some_and(is_needed))
        .collect()
}

/// The tables whose rows are published under `table`'s name: its partitions, or
/// itself.
pub fn holders<'a>(tables: &'a [Table], table: &'a Table) -> Vec<&'a Table> {
    if table.role.holds_rows() {
        return vec![table];
    }
    tables
        .iter()
        .filter(|leaf| leaf.role.holds_rows() && leaf.role.root() == Some(table.relation.oid))
        .collect()
}
