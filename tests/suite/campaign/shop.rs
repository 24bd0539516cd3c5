//! The tables that are written to, the rules about them, and what a page shows of them. What a rule must announce is
//! said here a second time, by code that shares nothing with rowcast's.

/// Rows have ids from 1 on.
pub(super) const IDS: u64 = 60;
pub(super) const OWNERS: u64 = 6;
/// Rows that a bulk insert adds, to be deleted together.
pub(super) const BULK_IDS: u64 = 1_000;
/// Rows that only one transaction writes, from here on.
pub(super) const LATE_IDS: u64 = 100_000;
/// What only work that is rolled back writes: ids from here on, this owner, and versions below zero.
pub(super) const GHOST_IDS: i64 = 900_000;
pub(super) const GHOST_OWNER: i32 = 666;

pub(super) struct Table {
    pub(super) name: &'static str,
    identity: &'static str,
    /// Whether rows are deleted by setting `deleted_at`.
    pub(super) is_soft: bool,
}

pub(super) const TABLES: [Table; 5] = [
    Table { name: "posts", identity: "full", is_soft: false },
    Table { name: "notes", identity: "using index notes_identity", is_soft: false },
    Table { name: "readings", identity: "default", is_soft: false },
    Table { name: "tasks", identity: "full", is_soft: true },
    Table { name: "lines", identity: "using index lines_identity", is_soft: false },
];

/// Whose rows only one writer writes.
pub(super) const PULSES: Table = Table { name: "pulses", identity: "full", is_soft: false };

/// What the rules see of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) owner: i32,
    pub(super) status: String,
    pub(super) is_deleted: bool,
}

/// Channels by prefix: `posts.` is `posts.{{ id }}`.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) table: &'static str,
    pub(super) entity: &'static str,
    by_id: Option<&'static str>,
    by_owner: Option<&'static str>,
    /// What templates call the owner.
    owner: &'static str,
    list: Option<&'static str>,
    /// Which rows a page shows, as a condition in SQL.
    shown: &'static str,
    /// The other options of the rule.
    options: &'static str,
    /// Whether the payload is the rule's own, with the row's version.
    pub(super) has_version: bool,
    /// Whether each change is sent by itself.
    pub(super) is_each_sent: bool,
    /// Whether the payload's id is the owner: the row announces its parent.
    pub(super) is_child: bool,
}

const PLAIN: Rule = Rule {
    name: "",
    table: "",
    entity: "",
    by_id: None,
    by_owner: None,
    owner: "owner",
    list: None,
    shown: "true",
    options: "",
    has_version: false,
    is_each_sent: false,
    is_child: false,
};

pub(super) const RULES: [Rule; 7] = [
    Rule {
        name: "posts",
        table: "posts",
        entity: "post",
        by_id: Some("private-posts."),
        by_owner: Some("private-posts.by."),
        list: Some("private-posts"),
        ..PLAIN
    },
    Rule {
        name: "published",
        table: "posts",
        entity: "article",
        by_owner: Some("private-articles."),
        list: Some("private-articles"),
        shown: "status = 'published'",
        options: "where = \"status == 'published'\"\ncoalesce_by = 'channel'\n",
        ..PLAIN
    },
    Rule {
        name: "notes",
        table: "notes",
        entity: "note",
        by_id: Some("private-notes."),
        by_owner: Some("private-notes.by."),
        options: "data = { entity = 'note', id = '{{ id }}', version = '{{ version }}', at = '{{ at }}' }\n",
        has_version: true,
        ..PLAIN
    },
    Rule {
        name: "readings",
        table: "readings",
        entity: "reading",
        by_id: Some("readings."),
        list: Some("readings"),
        options: "data = { entity = 'reading', id = '{{ id }}', version = '{{ version }}', at = '{{ at }}', \
                  mark = '{{ mark }}' }\ncoalesce = false\n",
        has_version: true,
        is_each_sent: true,
        ..PLAIN
    },
    Rule {
        name: "tasks",
        table: "tasks",
        entity: "task",
        by_id: Some("presence-tasks."),
        by_owner: Some("presence-tasks.by."),
        list: Some("presence-tasks"),
        shown: "deleted_at is null",
        ..PLAIN
    },
    Rule {
        name: "lines",
        table: "lines",
        entity: "order",
        by_owner: Some("orders."),
        list: Some("orders"),
        // Whose handle is the owner's number, for as long as the owner is there.
        owner: "buyer.handle",
        options: "id = '{{ owner }}'\n[rule.lookup.buyer]\ntable = 'owners'\nkey = '{{ owner }}'\n\
                  columns = ['handle']\n",
        is_child: true,
        ..PLAIN
    },
    Rule {
        name: "pulses",
        table: "pulses",
        entity: "pulse",
        by_id: Some("pulses."),
        options: "data = { entity = 'pulse', id = '{{ id }}', version = '{{ version }}', at = '{{ at }}' }\n",
        has_version: true,
        ..PLAIN
    },
];

/// A page that somebody looks at: it listens to a channel and shows rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub(super) channel: String,
    /// Gives one text: each row that is shown, with its version.
    pub(super) query: String,
}

impl Rule {
    /// Every channel that must hear of a row.
    pub(super) fn channels(&self, row: &Row) -> Vec<String> {
        let by_id = self.by_id.map(|prefix| format!("{prefix}{}", row.id));
        let by_owner = self.by_owner.map(|prefix| format!("{prefix}{}", row.owner));
        [by_id, by_owner, self.list.map(str::to_owned)].into_iter().flatten().collect()
    }

    /// Whether the channel hears of a resync without being occupied.
    pub(super) fn is_list(&self, channel: &str) -> bool {
        self.list == Some(channel)
    }

    /// Whether the channel is the row's own.
    pub(super) fn is_of(&self, channel: &str, id: i64) -> bool {
        self.by_id.is_some_and(|prefix| *channel == format!("{prefix}{id}"))
    }

    pub(super) fn shows(&self, row: &Row) -> bool {
        match self.name {
            "published" => row.status == "published",
            "tasks" => !row.is_deleted,
            _ => true,
        }
    }

    /// The payload's id.
    pub(super) fn subject(&self, row: &Row) -> i64 {
        if self.is_child { i64::from(row.owner) } else { row.id }
    }

    pub(super) fn list_view(&self) -> Option<View> {
        Some(self.view(self.list?.to_owned(), "true"))
    }

    pub(super) fn id_view(&self, id: u64) -> Option<View> {
        Some(self.view(format!("{}{id}", self.by_id?), &format!("id = {id}")))
    }

    pub(super) fn owner_view(&self, owner: u64) -> Option<View> {
        Some(self.view(format!("{}{owner}", self.by_owner?), &format!("owner = {owner}")))
    }

    fn view(&self, channel: String, of: &str) -> View {
        let Rule { table, shown, .. } = self;
        let rows = "string_agg(id || ':' || version, ' ' order by id)";
        let query = format!("select coalesce({rows}, '') from {table} where {of} and {shown}");
        View { channel, query }
    }

    fn toml(&self) -> String {
        let Rule { name, table, entity, options, .. } = self;
        let by =
            |prefix: Option<&str>, column| prefix.map(|it| format!("'{it}{{{{ {column} }}}}'"));
        let list = self.list.map(|list| format!("'{list}'"));
        let channels = [by(self.by_id, "id"), by(self.by_owner, self.owner), list];
        let channels: Vec<String> = channels.into_iter().flatten().collect();
        let channels = channels.join(", ");
        format!(
            "[[rule]]\nname = '{name}'\ntable = '{table}'\nentity = '{entity}'\n\
             channels = [{channels}]\n{options}"
        )
    }
}

pub(super) fn rules_toml() -> String {
    RULES.iter().map(Rule::toml).collect()
}

/// Makes the tables, and `log`, which tells of every committed change by a trigger: also of those whose commit the
/// writer never heard of, and of nothing that was rolled back.
pub(super) fn sql() -> String {
    let mut sql = String::from(
        "create sequence versions;
         create table log (
             seq bigserial, tx xid8 default pg_current_xact_id(), at timestamptz default statement_timestamp(),
             tab text,
             old_id bigint, old_owner int, old_status text, old_deleted bool,
             new_id bigint, new_owner int, new_status text, new_deleted bool, new_version bigint);
         create function log_change() returns trigger language plpgsql as $$ begin
             insert into log (tab, old_id, old_owner, old_status, old_deleted,
                              new_id, new_owner, new_status, new_deleted, new_version)
             values (tg_table_name, old.id, old.owner, old.status, old.deleted_at is not null,
                     new.id, new.owner, new.status, new.deleted_at is not null, new.version);
             return null;
         end $$;
         create function log_truncate() returns trigger language plpgsql as $$ begin
             insert into log (tab) values (tg_table_name);
             return null;
         end $$;
         create table owners (id int primary key, handle text not null, note int not null);
         alter table owners replica identity full;\n",
    );
    sql.push_str(&format!(
        "insert into owners select i, i, 0 from generate_series(1, {OWNERS}) i;\n"
    ));
    for Table { name, identity, .. } in TABLES.iter().chain([&PULSES]) {
        sql.push_str(&format!(
            "create table {name} (id bigint primary key, owner int not null, status text not null,
                                  version bigint not null, title text, body text, deleted_at timestamptz,
                                  mark int not null default 0);
             create unique index {name}_identity on {name} (id, owner);
             alter table {name} replica identity {identity};
             insert into {name} select i, 1 + i % {OWNERS}, 'draft', nextval('versions') from generate_series(1, 20) i;
             create trigger log after insert or update or delete on {name} for each row execute function log_change();
             create trigger log_truncate after truncate on {name} execute function log_truncate();\n",
        ));
    }
    sql
}
