//! The questions of upkeep, each in one place. Each answers with one row for each thing, whose columns are called as the fields
//! of `plan` are.

use proto::config::Size;

/// Whose upkeep it is: one at a time. "upkeep" in ASCII.
pub(super) const LOCK: &str = "SELECT pg_try_advisory_lock(129125698594160) AS taken";

/// Whether a backup is being taken: one that the server sends, one of ours, which holds a lock in whatever database, or a dump, which
/// calls itself so.
pub(super) fn backup_runs(key: i64) -> String {
    let (high, low) = ((key >> 32) & 0xFFFF_FFFF, key & 0xFFFF_FFFF);
    format!(
        "SELECT EXISTS (SELECT FROM pg_stat_progress_basebackup) OR EXISTS (SELECT FROM pg_locks \
         WHERE locktype = 'advisory' AND classid = {high} AND objid = {low} AND objsubid = 1 AND granted) \
         OR EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pg_dump') AS runs"
    )
}

/// Databases that take connections.
pub(super) const DATABASES: &str =
    "SELECT datname AS name FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1";

/// What the session and the server are.
pub(super) const SESSION: &str =
    "SELECT pg_backend_pid() AS pid, current_setting('server_version_num')::int AS version";

/// Ends the statement of a session.
pub(super) fn cancel(pid: i32) -> String {
    format!("SELECT pg_cancel_backend({pid})")
}

/// Tables that somebody has changed. Of a partitioned table the partitions.
pub(super) const TABLES: &str = "SELECT format('%I.%I', s.schemaname, s.relname) AS name, s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows, \
     s.n_mod_since_analyze AS changed_rows, s.last_analyze IS NULL AND s.last_autoanalyze IS NULL AS never_analyzed, \
     pg_has_role(c.relowner, 'usage') OR pg_has_role(d.datdba, 'usage') OR CASE WHEN \
     current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END AS may \
     FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = s.relid JOIN pg_database d ON d.datname = current_database() \
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' \
     AND s.schemaname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND s.n_dead_tup + s.n_mod_since_analyze > 0";

/// Indexes of some size, with the width of what they hold: by the statistics of the table's columns, and of the index's own
/// where it is over an expression. `NULL` where one of them was never analyzed. What cannot be built anew beside itself is left out.
pub(super) fn indexes(smallest: Size) -> String {
    format!(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name, format('%I.%I', tn.nspname, t.relname) AS table, \
         c.relpages::bigint * current_setting('block_size')::bigint AS size_bytes, \
         greatest(c.reltuples, 0)::float8 AS rows, coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions) \
         WHERE option_name = 'fillfactor'), 90) AS fillfactor, (SELECT CASE WHEN count(*) = count(s.avg_width) \
         THEN sum(s.avg_width)::float8 END FROM pg_attribute a LEFT JOIN pg_stats s \
         ON s.schemaname = tn.nspname AND NOT s.inherited AND CASE WHEN x.indkey[a.attnum - 1] = 0 \
         THEN s.tablename = c.relname AND s.attname = a.attname ELSE s.tablename = t.relname AND s.attname = \
         (SELECT k.attname FROM pg_attribute k WHERE k.attrelid = t.oid AND k.attnum = x.indkey[a.attnum - 1]) END \
         WHERE a.attrelid = c.oid) AS width \
         FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace \
         JOIN pg_am m ON m.oid = c.relam \
         WHERE m.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND x.indisvalid AND NOT x.indisexclusion \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
         AND c.relpages::bigint * current_setting('block_size')::bigint >= {}",
        smallest.0
    )
}

/// The size of something, in bytes. `name` is quoted as SQL needs it. The whole of a table, an index by itself.
pub(super) fn size(name: &str, of_index: bool) -> String {
    let function = if of_index { "pg_relation_size" } else { "pg_total_relation_size" };
    format!("SELECT {function}({}::regclass) AS bytes", restore::conf::literal(name))
}

/// What a REINDEX CONCURRENTLY that has failed leaves behind: invalid indexes of the same table that are called after it.
pub(super) fn leftovers(index: &str) -> String {
    let index = restore::conf::literal(index);
    format!(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT x.indisvalid AND x.indrelid = (SELECT indrelid FROM pg_index WHERE indexrelid = {index}::regclass) \
         AND c.relname ~ '_cc(new|old)[0-9]*$'"
    )
}
