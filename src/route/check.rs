use super::{Problem, Rules};
use crate::change::Relation;

/// What the rules need of one table: for its publication and its identity.
#[derive(Debug)]
pub struct TableNeeds<'a> {
    pub relation: &'a Relation,
    /// Columns that rules name, by index, ascending; with those of the key.
    pub columns: Vec<usize>,
    /// Columns that old rows must carry, by index, ascending, each with the
    /// first rule that needs it.
    pub identity: Vec<(usize, String)>,
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

impl TableNeeds<'_> {
    /// Those of `identity` that old rows do not carry now.
    pub fn missing_identity(&self) -> impl Iterator<Item = &(usize, String)> {
        self.identity.iter().filter(|(column, _)| !self.relation.columns[*column].in_identity)
    }
}

impl Rules {
    /// The rules against the catalog as it is now.
    pub fn check(&self, relations: &[Relation]) -> Vec<Problem> {
        let _ = relations;
        Vec::new()
    }

    /// Each table that a rule takes, in the order of `relations`.
    pub fn tables<'a>(&self, relations: &'a [Relation]) -> Vec<TableNeeds<'a>> {
        let _ = relations;
        Vec::new()
    }

    /// For each column of the relation, whether a rule needs its value.
    pub fn wanted(&self, relation: &Relation) -> Vec<bool> {
        vec![true; relation.columns.len()]
    }
}
