#!/usr/bin/env python3
"""A client of NATS for the tests, beside the bridge.

usage: nats.py URL messages STREAM         print each message as JSON: position, subject, id, data
       nats.py URL publish SUBJECT DATA    publish a message
       nats.py URL create CONFIG           create a stream with this configuration
       nats.py URL info STREAM CONSUMER    print the position of a consumer
       nats.py URL remove STREAM UNTIL     remove the messages in front of this position
       nats.py URL delete STREAM           delete a stream
       nats.py URL load STREAM N           create a stream with N replicas, and publish each line of stdin without any check
"""
import asyncio, json, sys
import nats


async def main(url, command, first, second=None):
    connection = await nats.connect(url)
    context = connection.jetstream()
    if command == "messages":
        state = (await context.stream_info(first)).state
        for seq in range(state.first_seq, state.last_seq + 1):
            message = await context.get_msg(first, seq)
            print(json.dumps([seq, message.subject, message.headers["Nats-Msg-Id"], message.data.decode()]))
    elif command == "publish":
        await context.publish(first, second.encode())
    elif command == "create":
        config = first.encode()
        answer = await connection.request(f"$JS.API.STREAM.CREATE.{json.loads(first)['name']}", config, 10)
        assert "error" not in json.loads(answer.data), answer.data
    elif command == "info":
        print((await context.consumer_info(first, second)).ack_floor.stream_seq)
    elif command == "remove":
        await context.purge_stream(first, seq=int(second))
    elif command == "delete":
        await context.delete_stream(first)
    elif command == "load":
        await context.add_stream(name=first, subjects=[f"{first}.>"], storage="file", num_replicas=int(second))
        await asyncio.gather(*[await context.publish_async(f"{first}.x", line) for line in sys.stdin.buffer])
    await connection.close()


asyncio.run(main(*sys.argv[1:]))
