-- A table of each kind that rowcast init tells apart.
CREATE TABLE users (id bigint PRIMARY KEY, name text, password text);
CREATE TABLE posts (id bigint PRIMARY KEY, user_id bigint NOT NULL, title text, deleted_at timestamp);
CREATE TABLE categories (code text PRIMARY KEY, name text);
CREATE SCHEMA store;
CREATE TABLE store.orders (id uuid PRIMARY KEY, user_id bigint);
CREATE TABLE store.posts (id bigint PRIMARY KEY);
CREATE TABLE audits (id bigint PRIMARY KEY, user_type text, user_id bigint);
ALTER TABLE store.orders REPLICA IDENTITY FULL;

CREATE TABLE category_post (category_id text, post_id bigint, PRIMARY KEY (post_id, category_id));
CREATE TABLE likes (user_id bigint, post_id bigint, created_at timestamp);
CREATE TABLE order_lines (order_id uuid, line int, PRIMARY KEY (order_id, line));
CREATE TABLE audit_log (what text);
CREATE TABLE invitations (token text PRIMARY KEY);
CREATE UNLOGGED TABLE hits (id bigint PRIMARY KEY);
CREATE TABLE notes (id bigint PRIMARY KEY);
ALTER TABLE notes REPLICA IDENTITY NOTHING;
CREATE TABLE "old posts" (id bigint PRIMARY KEY);
CREATE TABLE migrations (id int PRIMARY KEY, migration text);
CREATE TABLE telescope_entries (sequence bigint PRIMARY KEY);
