// The three applications' own APIs: a query for each path, whose groups are its parameters. A GET answers the rows as
// JSON; one with `one` answers the first of them.
const get = (path, sql, one = false) => ({ method: "GET", path, sql, one });
const post = (path, sql) => ({ method: "POST", path, sql });

export const routes = [
  get(
    /^\/api\/posts$/,
    `select posts.id, title, status, users.name as author from posts join users on users.id = user_id order by posts.id`,
  ),
  get(/^\/api\/posts\/(\d+)$/, `select id, title from posts where id = $1`, true),
  get(
    /^\/api\/writers\/(\d+)\/comments$/,
    `select count(*) from comments join posts on posts.id = post_id where posts.user_id = $1`,
  ),

  get(
    /^\/api\/servers$/,
    `select servers.id, vanity_name, provision_status, count(server_firewall_rules.id) as rules
     from servers left join server_firewalls on server_id = servers.id
     left join server_firewall_rules on server_firewall_id = server_firewalls.id
     group by servers.id order by servers.id`,
  ),
  get(
    /^\/api\/servers\/(\d+)$/,
    `select id, vanity_name, provision_status, provision,
       (select json_agg(json_build_object('id', rule.id, 'name', rule.name) order by rule.id)
        from server_firewalls firewall join server_firewall_rules rule on server_firewall_id = firewall.id
        where firewall.server_id = servers.id) as rules
     from servers where id = $1`,
    true,
  ),
  get(/^\/api\/sites\/(\d+)$/, `select id, domain, status from server_sites where id = $1`, true),

  get(/^\/api\/orders$/, `select id, number, status from orders where deleted_at is null order by id`),
  get(/^\/api\/registrations$/, `select id, name, status from registrations order by id`),
  post(
    /^\/api\/orders\/(\d+)\/next$/,
    `update orders set status = case status
       when 'pending' then 'payment' when 'payment' then 'paid' else 'released' end, updated_at = now()
     where id = $1`,
  ),
  post(/^\/api\/orders\/(\d+)\/cancel$/, `update orders set deleted_at = now() where id = $1`),
  post(/^\/api\/orders\/new\/(\w+)$/, `insert into orders (number, created_at, updated_at) values ($1, now(), now())`),
];
