-- The demo's application: a small blog, and its rows before rowcast looks.
CREATE TABLE users (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  updated_at timestamp(0)
);

CREATE TABLE posts (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id bigint NOT NULL REFERENCES users,
  title text NOT NULL,
  status text NOT NULL DEFAULT 'draft',
  created_at timestamp(0) NOT NULL DEFAULT localtimestamp,
  updated_at timestamp(0) NOT NULL DEFAULT localtimestamp,
  deleted_at timestamp(0)
);

CREATE TABLE comments (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  post_id bigint NOT NULL REFERENCES posts,
  body text NOT NULL,
  created_at timestamp(0) NOT NULL DEFAULT localtimestamp
);

INSERT INTO users (name) SELECT 'User ' || n FROM generate_series(1, 10) n;
INSERT INTO posts (user_id, title) SELECT 1 + n % 10, 'Post ' || n FROM generate_series(1, 300) n;
INSERT INTO comments (post_id, body) SELECT 1 + n % 300, 'Comment ' || n FROM generate_series(1, 600) n;
