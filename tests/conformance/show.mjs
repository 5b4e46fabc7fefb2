// Shows the cases of the corpus with the package: JSON cases in, the messages of each out.
import { createInterface } from 'node:readline';

const { Conversation } = await import(process.argv[2]);

for await (const line of createInterface({ input: process.stdin })) {
  const { answer, messages } = JSON.parse(line);
  console.log(JSON.stringify(messages.reduce((view, message) => view.apply(message), Conversation.of(answer)).messages));
}
