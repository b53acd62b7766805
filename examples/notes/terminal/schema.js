import { column, Schema, Table } from '@powersync/node';

/** What this client keeps locally: the columns of the server's table that it shows or writes. */
export const schema = new Schema({
  greeting: new Table({
    owner: column.text,
    message: column.text,
    author: column.text,
    created_at: column.text
  })
});
